"""Models of timm, Hugging Face and PEFT, as people have them: small, and with random weights."""

import pytest
import torch

from rarememory import wrap

REASON = "is not installed: pip install 'rarememory[models]'"
IMAGES = {size: torch.rand(3, 3, size, size) for size in (32, 64, 224)}
IDS = torch.tensor([[5, 6, 7, 0], [8, 9, 0, 0], [1, 2, 3, 4]])
TEXTS = {"input_ids": IDS, "attention_mask": (IDS > 0).long()}
TEXT = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "vocab_size": 32, "max_position_embeddings": 16, "num_labels": 5, "pad_token_id": 0,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "image_size": 32, "patch_size": 8, "num_labels": 5,
}  # fmt: skip


@pytest.fixture
def timm():
    return pytest.importorskip("timm", reason=f"timm {REASON}")


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers", reason=f"transformers {REASON}")


@pytest.fixture
def peft():
    return pytest.importorskip("peft", reason=f"peft {REASON}")


# The warnings of these packages are not ours to mend.
pytestmark = pytest.mark.filterwarnings("default")


def entering(model, name, inputs):
    """The first input of a layer, by a hook of its own; or what the model returns, without one."""
    seen = []
    if name is not None:
        layer = model.get_submodule(name)
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        returned = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    found = seen[-1] if seen else returned
    return found.mean((2, 3)) if isinstance(found, torch.Tensor) and found.dim() == 4 else found


def check(model, inputs, head, width, classes=5, expected=None, **options):
    """Learn, predict, and compare the features with what really enters the head."""
    model = model.eval()
    classifier = wrap(model, memory_size=8, **options)
    classifier.learn(inputs, ["kea", "weka", "kakapo"])
    assert classifier.extractor.at == head
    assert classifier.memory.keys.shape == (8, width)
    assert classifier.classes == [*range(classes), "kea", "weka", "kakapo"]
    expected = entering(model, head, inputs) if expected is None else expected(model)
    torch.testing.assert_close(classifier.features(inputs), expected)


@pytest.mark.parametrize(
    ("name", "at", "width", "size"),
    [
        ("resnet10t", "fc", 512, 64),
        ("test_vit", "head", 64, 224),
        ("convnext_atto", "head.fc", 320, 64),
        ("mobilenetv3_small_050", "classifier", 1024, 64),
        ("test_efficientnet", "classifier", 256, 64),
        ("ghostnet_050", "classifier", 1280, 64),
        ("dla34", "fc", 512, 64),
        ("dpn48b", "classifier", 832, 64),
        ("tf_mobilenetv3_small_minimal_100", "classifier", 1024, 64),
    ],
)
def test_a_classifier_of_timm(timm, name, at, width, size):
    check(timm.create_model(name, num_classes=5), IMAGES[size], at, width)


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "dla34", "test_vit"])
def test_an_encoder_of_timm(timm, name):
    model = timm.create_model(name, num_classes=0).eval()
    images = IMAGES[224 if "vit" in name else 64]
    with pytest.raises(ValueError, match=r"nor of another layer; .* or say host=False"):
        wrap(model).predict(images)
    width = model(images).shape[1]
    check(model, images, None, width, classes=0, host=False)


def test_two_heads_of_timm_are_named(timm):
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=5).eval()
    with pytest.raises(ValueError, match="come from 'head', 'head_dist': name the layer"):
        wrap(model).predict(IMAGES[224])
    check(model, IMAGES[224], "head", 192, at="head")


@pytest.mark.parametrize(
    ("kind", "config", "options", "at"),
    [
        ("BertForSequenceClassification", "BertConfig", TEXT, "classifier"),
        ("RobertaForSequenceClassification", "RobertaConfig", TEXT, "classifier.out_proj"),
        ("ViTForImageClassification", "ViTConfig", VISION, "classifier"),
        ("ResNetForImageClassification", "ResNetConfig",
         {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 5},
         "classifier.1"),
    ],
)  # fmt: skip
def test_a_classifier_of_transformers(transformers, kind, config, options, at):
    model = getattr(transformers, kind)(getattr(transformers, config)(**options))
    check(model, TEXTS if options is TEXT else IMAGES[32], at, 16)


@pytest.mark.parametrize(
    ("kind", "config", "options", "expected"),
    [
        ("BertModel", "BertConfig", TEXT, lambda m: m(**TEXTS).pooler_output),
        ("ViTModel", "ViTConfig", VISION, lambda m: m(IMAGES[32]).pooler_output),
        (
            "GPT2Model",
            "GPT2Config",
            {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 32, "n_positions": 16,
             "bos_token_id": 0, "eos_token_id": 0},
            lambda m: (m(**TEXTS).last_hidden_state * (IDS > 0)[..., None]).sum(1)
            / (IDS > 0).sum(1, keepdim=True),
        ),
    ],
)  # fmt: skip
def test_an_encoder_of_transformers(transformers, kind, config, options, expected):
    model = getattr(transformers, kind)(getattr(transformers, config)(**options)).eval()
    inputs = IMAGES[32] if options is VISION else TEXTS
    with pytest.raises(ValueError, match="host=False if it is an encoder"):
        wrap(model).predict(inputs)
    with torch.no_grad():
        check(model, inputs, None, 16, classes=0, expected=expected, host=False)


@pytest.mark.parametrize("trained", [False, True])
def test_lora_on_the_head(peft, transformers, trained):
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**VISION))
    lora = peft.LoraConfig(target_modules=["classifier"], r=8, init_lora_weights=not trained)
    check(peft.get_peft_model(model, lora), IMAGES[32], "base_model.model.classifier", 16)


def test_a_head_that_peft_saves_beside_lora(peft, transformers):
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**TEXT))
    lora = peft.LoraConfig(
        target_modules=["query"], r=8, modules_to_save=["classifier"], task_type="SEQ_CLS"
    )
    model, at = peft.get_peft_model(model, lora), "base_model.model.classifier"
    used = f"{at}.modules_to_save.default"
    check(model, TEXTS, at, 16, expected=lambda m: entering(m, used, TEXTS))


@pytest.mark.parametrize("version", ["ModelEmaV2", "ModelEmaV3"])
def test_an_average_of_timm_leaves_the_memory_out(timm, version):
    classifier = wrap(timm.create_model("test_resnet", num_classes=5), memory_size=8)
    classifier.learn(IMAGES[64], ["kea", "weka", "kea"])
    average = getattr(timm.utils, version)(classifier, decay=0.5)
    weight = average.module.model.fc.weight.clone()
    values = classifier.memory.values.clone()
    for name in ("kiwi", "takahe"):
        classifier.learn(IMAGES[64][:1] + 1, [name])
        with torch.no_grad():
            classifier.model.fc.weight += 1
        average.update(classifier)
    assert average.module.classes == [*range(5), "kea", "weka"]
    assert torch.equal(average.module.memory.values, values)
    assert not torch.equal(average.module.model.fc.weight, weight)
