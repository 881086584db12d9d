"""The feature extractor: features are taken from the host model, which is not changed."""

from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rarememory import Memory, MemoryClassifier, wrap


def convnet(classes=3):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, classes),
    )  # fmt: skip


def mlp(*widths):
    return nn.Sequential(nn.Flatten(), *(nn.Linear(*pair) for pair in pairwise(widths)))


IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "options", "until", "classes"),
    [
        (convnet(), {}, 5, 3),
        (mlp(64, 6, 5, 2), {"at": "2"}, 2, 2),
        (mlp(64, 7), {"host": False}, 2, 0),
        (mlp(64, 7, 2), {"host": False, "at": "2"}, 2, 0),
    ],
    ids=["last linear", "a layer by name", "output of an encoder", "a layer of an encoder"],
)
def test_features_are_the_input_of_a_layer_or_the_output(model, options, until, classes):
    classifier = wrap(model.eval(), **options)
    features = model[:until](IMAGES)
    torch.testing.assert_close(classifier.features(IMAGES), features)
    assert classifier.memory.keys.shape == (8192, features.shape[1])
    assert classifier.classes == list(range(classes))
    if classes:
        answer = classifier.predict_proba(IMAGES).values
        torch.testing.assert_close(answer, model(IMAGES).softmax(1))
    else:
        assert classifier.predict(IMAGES) == ["unknown"] * 5


def test_a_feature_map_is_averaged_over_height_and_width():
    model = convnet().eval()
    classifier = wrap(model, at="3", memory=Memory(4, 10))
    torch.testing.assert_close(classifier.features(IMAGES), model[:3](IMAGES).mean((2, 3)))


def test_the_model_is_not_changed():
    model = convnet().train()
    model[1].eval()
    before, dict_before = deepcopy(model.state_dict()), {**model.__dict__}
    modes = [module.training for module in model.modules()]
    classifier = wrap(model)
    classifier.learn(IMAGES, ["kea"] * 5)
    classifier.predict(IMAGES), classifier.explain(IMAGES), classifier.predict_proba(IMAGES)
    with pytest.raises(RuntimeError):
        classifier.learn(torch.rand(2, 7, 8, 8), ["kea", "kea"])
    assert classifier.model is model
    assert [module.training for module in model.modules()] == modes
    assert model.__dict__.keys() == dict_before.keys() and "forward" not in model.__dict__
    assert not any(module._forward_pre_hooks for module in model.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_may_return_an_object_with_logits():
    class WithLogits(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return SimpleNamespace(logits=self.head(input=x))

    model, x = WithLogits(), torch.rand(3, 4)
    answer = wrap(model, classes=["a", "b"]).predict_proba(x)
    torch.testing.assert_close(answer.values, model.head(x).detach().softmax(1))
    assert answer.classes == ["a", "b"]


def test_a_resnet_of_torchvision_is_wrapped_at_its_head():
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    classifier = wrap(models.resnet18(num_classes=4), memory_size=10)
    assert classifier.extractor.at == "fc" and classifier.memory.keys.shape == (10, 512)
    classifier.learn(torch.rand(2, 3, 32, 32), ["kea", "kakapo"])
    assert classifier.classes == [0, 1, 2, 3, "kea", "kakapo"]


def test_an_encoder_of_texts_takes_texts():
    class Counts(nn.Module):
        def forward(self, texts):
            counts = [[text.count(letter) for letter in "abc"] for text in texts]
            return torch.tensor(counts).float()

    classifier = MemoryClassifier(Counts(), host=False, memory=Memory(3, 10), batch_size=2)
    classifier.learn(["aab", "ccb", "aaa"], ["much a", "much c", "much a"], refs=["1", "2", "3"])
    assert classifier.predict("aaab") == "much a"
    assert classifier.predict(["cc", "aa"]) == ["much c", "much a"]
    assert classifier.explain("ccb", k=1)[0].ref == "2"


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (convnet(), {"at": "9"}, "has no layer '9'; its last are '3', '4', '5'"),
        (convnet(), {"classes": ["a", "b", "unknown"]}, "'unknown' is what predict says"),
        (convnet(), {"classes": ["a", "b", "b"]}, "2 different classes for 3 outputs"),
        (nn.ReLU(), {}, "ReLU has no Linear, .* or say host=False"),
    ],
)
def test_a_layer_or_a_class_that_does_not_fit_is_refused(model, options, said):
    with pytest.raises(ValueError, match=said):
        wrap(model, **options)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("model", ["resnet18", nn.ReLU, lambda x: x])
def test_what_is_no_model_is_refused_in_one_sentence(model):
    with pytest.raises(
        ValueError, match=r"wrap takes a model, which is .* this is .*(resnet|ReLU|fun)"
    ):
        wrap(model)


def skipping():
    model = convnet()
    model.aside = nn.Linear(4, 3)
    model.forward = lambda x: nn.Sequential.forward(model[:6], x)
    return model


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (convnet(), {"classes": ["a", "b"]}, r"answers with \[3\] numbers, and its classes are 2"),
        (skipping(), {"at": "aside"}, "'aside' did not run"),
        (
            nn.Sequential(nn.Flatten(2), nn.Linear(64, 2)),
            {"host": False},
            r"must be .batch, key_dim., and 'the output'",
        ),
    ],
)
def test_outputs_of_another_shape_are_refused(model, options, said):
    with pytest.raises(ValueError, match=said):
        wrap(model, **options).predict(IMAGES)


def test_a_memory_that_is_not_empty_is_refused():
    memory = Memory(4, 10)
    memory.write(torch.eye(4), torch.arange(4))
    with pytest.raises(ValueError, match="holds 4 examples already"):
        wrap(convnet(), memory=memory)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a_model_of_another_precision_is_wrapped_too(dtype):
    model = mlp(64, 7, 3).to(dtype)
    classifier = wrap(model)
    classifier.learn(IMAGES, list("abcde"))
    assert classifier.predict(IMAGES) == list("abcde")
    assert classifier.memory.keys.dtype == classifier.predict_proba(IMAGES).values.dtype
    classifier.loss(IMAGES, list("edcba")).backward()


def test_the_whole_classifier_moves_to_the_models_device():
    model = convnet()
    classifier = wrap(model)
    classifier.learn(IMAGES, range(5))
    model.double()
    assert classifier.predict(IMAGES) == classifier.predict(IMAGES.double())
    model.to("meta")
    assert classifier.features(IMAGES).device.type == "meta"
    assert classifier.memory.keys.device.type == "meta" == classifier.threshold.device.type


@pytest.mark.parametrize("verb", ["learn", "calibrate", "fit_threshold", "loss"])
@pytest.mark.parametrize("model", [convnet(), mlp(64, 6, 3)], ids=["convnet", "mlp"])
def test_a_tuple_of_labels_is_said_to_be_one_label(model, verb):
    # Twice, because the dimensions of an example are known from the second call on.
    classifier = wrap(model, memory_size=8)
    for _ in range(2):
        said = r"a tuple is one label, .* inputs \[2, 1, 8, 8\] .* of 2 parts \[2\], .* in a list"
        with pytest.raises(ValueError, match=said):
            getattr(classifier, verb)(IMAGES[:2], ("kea", "weka"))
        classifier.learn(IMAGES[0], ("kea", "weka"))
    assert classifier.predict(IMAGES[0]) == ("kea", "weka")


@pytest.mark.parametrize("verb", ["learn", "calibrate", "fit_threshold", "loss"])
@pytest.mark.parametrize("many", [torch.clone, list], ids=["tensor", "list"])
@pytest.mark.parametrize("model", [convnet(), mlp(64, 6, 3)], ids=["convnet", "mlp"])
def test_one_label_for_several_examples_is_said_to_be_that(model, many, verb):
    classifier = wrap(model, memory_size=8)
    for _ in range(2):
        said = r"^the inputs.* one example, since 'kea' is one label.* for 4 examples give 4 labels"
        with pytest.raises(ValueError, match=rf"{said}, \['kea'\] \* 4$"):
            getattr(classifier, verb)(many(IMAGES[:4]), "kea")
        classifier.learn(IMAGES[0], "kea")
    assert classifier.predict(IMAGES[0]) == "kea" and len(classifier.memory) == 2


@pytest.mark.parametrize(
    ("inputs", "labels", "said"),
    [
        (IMAGES[0], ["kea", "weka", "tui"], r"\[1, 8, 8\] are 1 example, with 3 labels: give one"),
        (IMAGES[:1], ["kea", "weka"], r"\[1, 1, 8, 8\] are 1 example, with 2 labels: give one"),
        (
            IMAGES[0].expand(3, 8, 8),
            ["kea"],
            r"\[3, 8, 8\] are 3 .* 1 label: .* or 'kea' alone for",
        ),
        (IMAGES[:1], ("kea", "weka"), r" \[1, 1, 8, 8\] were taken as one .* of 2 parts \[2\], "),
    ],
)
def test_labels_in_a_list_that_do_not_fit_one_image_are_refused_by_both_shapes(
    inputs, labels, said
):
    for known in (False, True):
        classifier = wrap(convnet(), memory_size=8)
        if known:
            classifier.learn(IMAGES[0], "kiwi")
        with pytest.raises(ValueError, match=said):
            classifier.learn(inputs, labels)
        assert len(classifier.memory) == known


def test_one_label_for_a_batch_of_one_is_said_to_need_a_list():
    with pytest.raises(
        ValueError, match=r" for a batch of one example give one label in a list, \['kea'\]$"
    ):
        wrap(convnet()).learn(IMAGES[:1], "kea")


@pytest.mark.parametrize("inputs", [IMAGES[0], nn.Identity()], ids=["image", "object"])
def test_what_fails_with_one_label_and_is_one_example_fails_as_it_does(inputs):
    classifier = wrap(convnet())
    classifier.learn(IMAGES[0], "kea")
    classifier.model[0].forward = lambda _: 1 / 0
    with pytest.raises(ZeroDivisionError):
        classifier.learn(inputs, "kea")


@pytest.mark.parametrize("verb", ["predict", "predict_proba", "explain", "features", "learn"])
@pytest.mark.parametrize("model", [convnet(), mlp(64, 6, 3), nn.Identity()], ids=str)
def test_a_model_of_images_is_said_to_take_no_names_of_files(model, verb):
    classifier = wrap(model, host=False, memory_size=8)
    beside = ("kea",) if verb == "learn" else ()
    said = (
        r"^the model cannot take the name of a file, 'kea.JPG': .* transforms\(.*images.open_image"
    )
    for name in ("kea.JPG", Path("kea.JPG")):
        with pytest.raises(ValueError, match=said):
            getattr(classifier, verb)(name, *beside)
        with pytest.raises(ValueError, match=said):
            getattr(classifier, verb)([name], *(["kea"] for _ in beside))


@pytest.mark.parametrize("example", ["a green parrot", 5, SimpleNamespace()], ids=repr)
def test_a_model_that_takes_no_list_is_said_not_to(example):
    said = (
        rf"^the model cannot take a list of {type(example).__name__} \(conv2d\(\) received .*\): "
    )
    with pytest.raises(ValueError, match=said) as raised:
        wrap(convnet()).predict(example)
    assert isinstance(raised.value.__cause__, TypeError)


@pytest.mark.parametrize("verb", ["learn", "loss", "calibrate", "predict"])
def test_none_is_no_input(verb):
    for labels in ("kea", ["kea"]):
        beside = () if verb == "predict" else (labels,)
        with pytest.raises(ValueError, match=r"^the inputs are None: give an example, a batch"):
            getattr(wrap(convnet()), verb)(None, *beside)
