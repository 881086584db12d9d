"""The host: listened to, never changed."""

from copy import deepcopy
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


IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_features_are_what_enters_the_last_linear():
    model = convnet().eval()
    classifier = wrap(model)
    torch.testing.assert_close(classifier.features(IMAGES), model[:-1](IMAGES))
    assert classifier.memory.keys.shape == (8192, 4)
    assert classifier.classes == [0, 1, 2]


def test_an_empty_memory_leaves_the_host_its_answers():
    model = convnet().eval()
    chances = wrap(model, classes=["a", "b", "c"]).predict_proba(IMAGES)
    torch.testing.assert_close(chances.values, model(IMAGES).softmax(1))
    assert chances.classes == ["a", "b", "c"]


def test_the_model_is_neither_changed_nor_patched():
    model = convnet().train()
    model[1].eval()
    before, dict_before = deepcopy(model.state_dict()), {**model.__dict__}
    modes = [module.training for module in model.modules()]
    classifier = wrap(model)
    classifier.learn(IMAGES, ["kea"] * 5)
    classifier.predict(IMAGES), classifier.explain(IMAGES), classifier.predict_proba(IMAGES)
    assert classifier.model is model
    assert [module.training for module in model.modules()] == modes
    assert model.__dict__.keys() == dict_before.keys() and "forward" not in model.__dict__
    assert not any(module._forward_pre_hooks for module in model.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modes_and_hooks_are_put_back_after_an_error():
    model = convnet().train()
    classifier = wrap(model)
    with pytest.raises(RuntimeError):
        classifier.learn(torch.rand(2, 7, 8, 8), ["kea", "kea"])
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_another_layer_is_listened_to_by_name():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Linear(5, 2)).eval()
    classifier = wrap(model, at="2")
    x = torch.rand(3, 4)
    torch.testing.assert_close(classifier.features(x), model[:2](x))
    torch.testing.assert_close(classifier.predict_proba(x).values, model(x).softmax(1))


def test_a_map_of_features_is_averaged_over_its_places():
    model = convnet().eval()
    classifier = wrap(model, at="3", memory=Memory(4, 10))
    torch.testing.assert_close(classifier.features(IMAGES), model[:3](IMAGES).mean((2, 3)))


def test_an_encoder_that_is_no_classifier_gives_its_output():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 7)).eval()
    classifier = wrap(model, host=False)
    torch.testing.assert_close(classifier.features(IMAGES), model(IMAGES))
    assert classifier.classes == [] and classifier.memory.keys.shape[1] == 7
    assert classifier.predict(IMAGES) == ["unknown"] * 5


def test_an_encoder_can_be_listened_to_inside():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.ReLU(), nn.Linear(7, 2)).eval()
    classifier = wrap(model, at="3", host=False)
    torch.testing.assert_close(classifier.features(IMAGES), model[:3](IMAGES))
    assert classifier.classes == []


def test_an_answer_with_logits_inside_is_a_host_too():
    class Wordy(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return SimpleNamespace(logits=self.head(input=x))

    model = Wordy()
    x = torch.rand(3, 4)
    chances = wrap(model).predict_proba(x).values
    torch.testing.assert_close(chances, model.head(x).detach().softmax(1))


def test_a_resnet_of_torchvision_is_wrapped_at_its_head():
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    classifier = wrap(models.resnet18(num_classes=4), memory_size=10)
    assert classifier.extractor.at == "fc" and classifier.memory.keys.shape == (10, 512)
    classifier.learn(torch.rand(2, 3, 32, 32), ["kea", "kakapo"])
    assert classifier.classes == [0, 1, 2, 3, "kea", "kakapo"]


def test_an_encoder_of_texts_is_asked_in_texts():
    class Letters(nn.Module):
        def forward(self, texts):
            counts = [[text.count(letter) for letter in "abc"] for text in texts]
            return torch.tensor(counts).float()

    classifier = MemoryClassifier(Letters(), host=False, memory=Memory(3, 10), batch_size=2)
    classifier.learn(["aab", "ccb", "aaa"], ["much a", "much c", "much a"], refs=["1", "2", "3"])
    assert classifier.predict("aaab") == "much a"
    assert classifier.predict(["cc", "aa"]) == ["much c", "much a"]
    assert classifier.explain("ccb", k=1)[0].ref == "2"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"at": "9"}, "has no layer '9'; its last are '3', '4', '5'"),
        ({"at": "0"}, "the layer '0' is a Conv2d"),
        ({"classes": ["a", "b", "unknown"]}, "'unknown' is what predict says"),
        ({"classes": ["a", "b", "b"]}, "2 different classes for 3 outputs"),
    ],
)
def test_a_layer_or_a_class_that_does_not_fit_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        wrap(convnet(), **options)


def test_a_model_without_a_linear_says_what_it_needs():
    with pytest.raises(ValueError, match="classes=, or host=False"):
        wrap(nn.ReLU())
    with pytest.raises(ValueError, match=r"memory=Memory\(key_dim=...\)"):
        wrap(nn.ReLU(), host=False)
    with pytest.raises(ValueError, match="no Linear to take features from"):
        wrap(nn.ReLU(), classes=["a"])


def test_a_host_that_answers_otherwise_than_said_is_refused():
    with pytest.raises(ValueError, match=r"answers with \[3\] numbers, and its classes are 2"):
        wrap(convnet(), classes=["a", "b"]).predict(IMAGES)


def test_a_layer_that_does_not_run_is_refused():
    model = convnet()
    model.aside = nn.Linear(4, 3)
    model.forward = lambda x: nn.Sequential.forward(model[:6], x)
    with pytest.raises(ValueError, match="'aside' did not run"):
        wrap(model, at="aside").predict(IMAGES)


def test_features_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"features must be .batch, key_dim., and 'the output'"):
        wrap(nn.Linear(8, 2), host=False).features(torch.rand(2, 3, 8))


def test_a_memory_that_holds_something_is_refused():
    memory = Memory(4, 10)
    memory.write(torch.eye(4), torch.arange(4))
    with pytest.raises(ValueError, match="holds 4 examples already"):
        wrap(convnet(), memory=memory)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a_model_of_another_precision_is_wrapped_too(dtype):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.Linear(7, 3)).to(dtype)
    classifier = wrap(model)
    classifier.learn(IMAGES, list("abcde"))
    assert classifier.predict(IMAGES) == list("abcde")
    assert classifier.memory.keys.dtype == classifier.predict_proba(IMAGES).values.dtype
    classifier.loss(IMAGES, list("edcba")).backward()


def test_all_of_it_follows_the_model():
    model = convnet()
    classifier = wrap(model)
    classifier.learn(IMAGES, range(5))
    model.double()
    assert classifier.predict(IMAGES) == classifier.predict(IMAGES.double())
    model.to("meta")
    assert classifier._reference().device.type == "meta"
    assert classifier.memory.keys.device.type == "meta" == classifier.ensembler.weights.device.type
