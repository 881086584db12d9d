"""The head is the layer whose output are the model's logits, whatever it is and wherever it is."""

from collections import namedtuple
from copy import deepcopy

import pytest
import torch
from torch import nn

from rarememory import Memory, MemoryClassifier, wrap

INPUTS = torch.rand(5, 6, generator=torch.Generator().manual_seed(0))
IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
# The models below are made when pytest reads this file, before its fixture seeds.
torch.manual_seed(0)


class Model(nn.Module):
    """Layers by name in the order of registration; `forward` is a function of the module."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.function = forward

    def forward(self, x):
        return self.function(self, x)


class Cosine(nn.Module):
    """A head without any Linear."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))

    def forward(self, x):
        return nn.functional.normalize(x) @ nn.functional.normalize(self.weight).T


class LowRank(nn.Module):
    """As LoRA wraps a Linear: the parts are Linears too, and the second of them starts at zero."""

    def __init__(self, layer, rank=2, trained=True):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.base_layer = layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(layer.in_features, rank)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, layer.out_features)})
        if not trained:
            for weight in self.lora_B.parameters():
                nn.init.zeros_(weight)

    def forward(self, x):
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


def zero(layer):
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer


def head_first():
    return Model(lambda m, x: m.head(m.body(x)), head=nn.Linear(4, 3), body=nn.Linear(6, 4))


def auxiliary(prepare=lambda layer: layer):
    def forward(m, x):
        m.seen = m.aside(m.body(x))
        return m.head(m.body(x).relu())

    return Model(
        forward, body=nn.Linear(6, 4), head=prepare(nn.Linear(4, 3)), aside=prepare(nn.Linear(4, 3))
    )


def attention_last():
    def forward(m, x):
        states = m.body(x).unsqueeze(1)
        return m.head(m.mix(states, states, states)[0].squeeze(1))

    layers = {"body": nn.Linear(6, 4), "head": nn.Linear(4, 3)}
    return Model(forward, **layers, mix=nn.MultiheadAttention(4, 2, batch_first=True))


def body_and(head):
    return Model(lambda m, x: m.head(m.body(x)), body=nn.Linear(6, 4), head=head)


def followed_by(function):
    return Model(
        lambda m, x: function(m.head(m.body(x))), body=nn.Linear(6, 4), head=nn.Linear(4, 3)
    )


MODELS = {
    "registered first": (head_first(), "head"),
    "beside an auxiliary one": (auxiliary(), "head"),
    "beside an auxiliary one, both zero": (auxiliary(zero), "head"),
    "before attention": (attention_last(), "head"),
    "with LoRA": (body_and(LowRank(nn.Linear(4, 3))), "head"),
    "with LoRA, untrained": (body_and(LowRank(nn.Linear(4, 3), trained=False)), "head"),
    "of cosines": (body_and(Cosine()), "head"),
    "before log_softmax": (followed_by(lambda x: x.log_softmax(1)), "head"),
    "before softmax": (followed_by(lambda x: x.softmax(1)), "head"),
    "before sigmoid": (followed_by(torch.sigmoid), "head"),
    "in half precision": (followed_by(lambda x: x.log_softmax(1)).bfloat16(), "head"),
}


def entering(model, name, inputs):
    """The first input of a layer, by a hook of its own."""
    seen = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(inputs.to(next(model.parameters()).dtype))
    hook.remove()
    return seen[-1]


@pytest.mark.parametrize(("model", "name"), MODELS.values(), ids=MODELS)
def test_the_head_is_found_by_what_it_gives(model, name):
    classifier = wrap(model.eval(), memory_size=8)
    classifier.learn(INPUTS[:2], ["kea", "weka"])
    assert classifier.extractor.at == name and classifier.classes == [0, 1, 2, "kea", "weka"]
    assert torch.equal(classifier.features(INPUTS), entering(model, name, INPUTS))
    assert classifier.memory.keys.shape == (8, 4)
    assert classifier.predict(INPUTS[0]) == "kea"


@pytest.mark.parametrize("name", ["before attention", "with LoRA"])
def test_the_first_guess_is_right_where_parts_of_a_layer_are_linears(name):
    classifier = wrap(MODELS[name][0], memory_size=8)
    assert classifier.extractor.at == "head" and classifier.classes == [0, 1, 2]
    assert classifier.memory.keys.shape == (8, 4)


@pytest.mark.parametrize("by", ["predict", "predict_proba", "explain", "fit_threshold", "forward"])
def test_any_first_batch_shows_the_classes(by):
    def fresh():
        torch.manual_seed(0)
        return wrap(
            Model(lambda m, x: m.head(m.body(x)), head=nn.Linear(9, 2), body=nn.Linear(6, 9))
        )

    classifier, again = fresh(), fresh()
    again.features(INPUTS)
    answers = [getattr(each, by)(INPUTS) for each in (classifier, again)]
    assert classifier.classes == [0, 1] and classifier.memory.keys.shape[1] == 9
    if by == "forward":
        assert torch.equal(*answers)
    elif by == "predict_proba":
        assert torch.equal(answers[0].values, answers[1].values)
    else:
        assert answers[0] == answers[1]


def test_a_convolution_of_1x1_is_a_head():
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 4, 1), nn.Flatten()
    ).eval()
    classifier = wrap(model, memory_size=8)
    assert classifier.classes == [0, 1, 2, 3] and classifier.memory.keys.shape == (8, 6)
    expected = model[:2](IMAGES).flatten(1)
    torch.testing.assert_close(classifier.features(IMAGES), expected.detach())


def identity_head():
    return Model(lambda m, x: m.norm(m.body(x)), body=nn.Linear(6, 4), norm=nn.LayerNorm(4))


def in_place():
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(inplace=True))
    model[0].bias.data[0] = -9
    return model


def distilled():
    def forward(m, x):
        return (m.head(m.body(x)) + m.head_dist(m.body(x))) / 2

    layers = {"body": nn.Linear(6, 4), "head": nn.Linear(4, 3), "head_dist": nn.Linear(4, 3)}
    return Model(forward, **layers)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            identity_head(),
            r"\[5, 4\] is not that of 'body', nor of another layer; .* come from 'body'",
        ),
        (in_place(), "is not that of '0'.* host=False"),
        (distilled(), "come from 'head', 'head_dist': name the layer .* with at="),
        (followed_by(lambda x: x[:, :2]), "no layer gives as many numbers"),
        (
            Model(lambda m, x: x @ m.head.weight.T, head=Cosine()),
            "is not that of a layer; no layer",
        ),
    ],
    ids=["identity", "in place", "distilled", "cut", "its weights alone"],
)
def test_a_model_whose_output_no_layer_gives_is_refused(model, said):
    inputs = INPUTS[:, :4] if "not that of a layer" in said else INPUTS
    classifier = wrap(model.eval())
    for call in (classifier.predict, classifier, lambda x: classifier.learn(x, ["kea"] * 5)):
        with pytest.raises(ValueError, match=said):
            call(inputs)
    assert not len(classifier.memory)


def test_a_layer_that_is_named_is_not_doubted():
    classifier = wrap(distilled(), at="head", memory_size=8)
    classifier.learn(INPUTS[:1], ["kea"])
    assert classifier.classes == [0, 1, 2, "kea"]


def test_a_guess_that_is_wrong_is_not_saved_as_right(tmp_path):
    model = head_first()
    classifier = wrap(model, memory_size=8)
    assert classifier.extractor.at == "body"
    classifier.save(tmp_path / "a")
    again = MemoryClassifier.load(tmp_path / "a", model)
    again.learn(INPUTS, list("abcde"))
    assert again.extractor.at == "head" and again.predict(INPUTS) == list("abcde")
    classifier.learn(INPUTS, list("abcde"))
    classifier.save(tmp_path / "a")
    again = MemoryClassifier.load(tmp_path / "a", model)
    assert again.extractor.at == "head" and again.predict(INPUTS) == list("abcde")


def test_a_checkpoint_of_a_corrected_classifier_loads_before_the_first_batch():
    model = Model(lambda m, x: m.head(m.body(x)), head=nn.Linear(9, 2), body=nn.Linear(6, 9))
    classifier = wrap(model, memory_size=8)
    classifier.learn(INPUTS, list("abcde"))
    again = wrap(deepcopy(model), memory_size=8)
    again.load_state_dict(classifier.state_dict())
    assert again.classes == classifier.classes
    assert again.predict(INPUTS) == list("abcde")


def test_a_memory_that_is_given_keeps_its_width():
    classifier = wrap(head_first(), memory=Memory(4, 8))
    classifier.learn(INPUTS, list("abcde"))
    assert classifier.predict(INPUTS) == list("abcde")
    with pytest.raises(ValueError, match="width"):
        wrap(head_first(), memory=Memory(6, 8)).predict(INPUTS)


def test_classes_that_are_named_are_not_corrected():
    classifier = wrap(head_first(), classes=["sparrow", "finch", "wren"])
    classifier.learn(INPUTS[:1], ["kea"])
    assert classifier.classes == ["sparrow", "finch", "wren", "kea"]
    with pytest.raises(ValueError, match=r"answers with \[3\] numbers, and its classes are 2"):
        wrap(head_first(), classes=["sparrow", "finch"]).predict(INPUTS)


def test_a_first_batch_without_numbers_decides_nothing():
    model = head_first()
    classifier = wrap(model)
    assert classifier.predict(INPUTS[:0]) == []
    assert classifier.features(INPUTS).shape == (5, 4) and classifier.extractor.at == "head"
    on_meta = wrap(deepcopy(model).to("meta"))
    assert on_meta.features(INPUTS).device.type == "meta" and on_meta.extractor.at == "body"


@pytest.mark.parametrize(
    "encoder",
    [nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()), nn.Flatten(), nn.Identity()],
    ids=["convolutions", "no weights", "a feature map as it is"],
)
def test_an_encoder_without_a_linear_needs_nothing_more(encoder):
    classifier = wrap(encoder, host=False, memory_size=8)
    classifier.learn(IMAGES, list("abcde"))
    assert classifier.memory.keys.shape == (8, classifier.features(IMAGES).shape[1])
    assert classifier.predict(IMAGES) == list("abcde")


def test_an_encoder_whose_last_linear_is_not_its_output():
    encoder = nn.Sequential(
        nn.Linear(6, 4), nn.Unflatten(1, (1, 2, 2)), nn.Flatten(), nn.Identity()
    )
    encoder.append(nn.Linear(4, 9))
    encoder.forward = lambda x: nn.Sequential.forward(encoder[:4], x)
    classifier = wrap(encoder, host=False)
    classifier.learn(INPUTS, list("abcde"))
    assert classifier.memory.keys.shape == (8192, 4)


Named = namedtuple("Named", ["logits", "aside"])


@pytest.mark.parametrize(
    ("form", "output"),
    [
        (lambda x: (x, None), None),
        (lambda x: [x, x + 1], None),
        (lambda x: {"loss": None, "logits": x, "states": x}, None),
        (lambda x: Named(x, x + 1), None),
        (lambda x: {"out": x}, None),
        (lambda x: {"scores": x, "states": x + 1}, "scores"),
        (lambda x: (x + 1, x), 1),
        (lambda x: (x + 1, x), -1),
        (lambda x: Named(x + 1, x), "aside"),
        (
            lambda x: {"deep": [x + 1, {"scores": x}]},
            lambda returned: returned["deep"][1]["scores"],
        ),
    ],
)
@pytest.mark.parametrize("host", [True, False])
def test_what_a_model_returns_is_understood(form, output, host, tmp_path):
    model = followed_by(form)
    classifier = wrap(model, host=host, output=output, memory_size=8)
    classifier.learn(INPUTS, list("abcde"))
    states = model.body(INPUTS)
    torch.testing.assert_close(classifier.features(INPUTS), states if host else model.head(states))
    classifier.save(tmp_path / "birds")
    if callable(output):
        with pytest.raises(ValueError, match="a function of your own as output=: give that again"):
            MemoryClassifier.load(tmp_path / "birds", model)
    given = output if callable(output) else None
    again = MemoryClassifier.load(tmp_path / "birds", model, output=given)
    assert again.predict(INPUTS) == list("abcde")


@pytest.mark.parametrize(
    ("form", "options", "said"),
    [
        (lambda x: {"a": x, "b": x}, {}, r"a dict of 'a': a tensor \[5, 3\] and 'b': .* output="),
        (lambda x: (None, x), {}, r"a tuple of a NoneType and a tensor \[5, 3\].* logits"),
        (lambda x: (x[:, 0], x), {"host": False}, r"a tuple of a tensor \[5\] .* its features"),
        (lambda x: "kea", {}, "the model returned a str"),
        (lambda x: (), {}, "a tuple of nothing"),
        (lambda x: {"a": x}, {"output": "b"}, "which has no 'b': name another part"),
        (lambda x: (x,), {"output": 1}, "which has no 1"),
        (lambda x: x, {"output": lambda returned: [returned]}, "gives a list of a tensor"),
        (lambda x: {"last_hidden_state": x}, {}, "host=False if it is an encoder"),
        (lambda x: x.unsqueeze(1), {"host": False}, r"'the output' gives \[5, 1, 3\].* output="),
    ],
)
def test_what_is_not_understood_is_said_with_what_to_write(form, options, said):
    with pytest.raises(ValueError, match=said):
        wrap(followed_by(form), **options).predict(INPUTS)


def returning(form):
    """A model that returns features, which enter its head, and logits, in some order."""

    def forward(m, x):
        features = m.body(x)
        return form(features, m.head(features.relu()))

    return Model(forward, body=nn.Linear(6, 4), head=nn.Linear(4, 3))


@pytest.mark.parametrize(
    ("form", "output", "said"),
    [
        (lambda f, y: (f, y), None, r"\[5, 4\], is the output of 'body'.* output=1 .*at='body'"),
        (lambda f, y: [None, f, y], 1, r"\[5, 4\], is the output of 'body'.* output=2 .*at='body'"),
        (lambda f, y: (f.relu(), y.softmax(1)), None, r"the output of no layer, .* say output=1 "),
        (lambda f, y: (y, f), 1, r"\[5, 4\], is the output of 'body'.* output=0 .*at='body'"),
    ],
)
def test_features_beside_logits_are_not_taken_for_logits(form, output, said):
    classifier = wrap(returning(form), output=output)
    with pytest.raises(ValueError, match=said):
        classifier.learn(INPUTS, list("abcde"))
    assert not len(classifier.memory)


@pytest.mark.parametrize(
    ("form", "output"),
    [
        (lambda f, y: (f, y), 1),
        (lambda f, y: (y, f), None),
        (lambda f, y: (y, f), 0),
        (lambda f, y: (y, y.softmax(1)), None),
    ],
)
def test_logits_that_are_named_or_come_first_are_taken(form, output):
    classifier = wrap(returning(form), output=output, memory_size=8)
    classifier.learn(INPUTS, list("abcde"))
    assert classifier.classes == [0, 1, 2, *"abcde"] and classifier.extractor.at == "head"


def test_a_second_head_beside_the_first_is_no_reason_to_refuse():
    layers = {name: nn.Linear(*pair) for name, pair in {"a": (4, 3), "b": (4, 2)}.items()}

    def forward(m, x):
        states = m.body(x)
        return m.a(states), m.b(states)

    classifier = wrap(Model(forward, body=nn.Linear(6, 4), **layers), memory_size=8)
    classifier.learn(INPUTS, list("abcde"))
    assert classifier.extractor.at == "a" and classifier.classes == [0, 1, 2, *"abcde"]


@pytest.mark.parametrize("host", [True, False])
@pytest.mark.parametrize(
    ("form", "said"),
    [
        (lambda x: x.to_sparse(), r"\[5, 3\] are sparse: .* returned.to_dense"),
        (lambda x: x + 0j, r"\[5, 3\] are complex numbers: .* returned.abs"),
    ],
)
def test_what_is_no_dense_tensor_of_real_numbers_is_refused(form, said, host):
    what = "logits" if host else "features"
    with pytest.raises(ValueError, match=rf"^the {what} {said}\(\)$"):
        wrap(followed_by(form), host=host).predict(INPUTS)


@pytest.mark.parametrize("form", [lambda x: x[:, 0], lambda x: x.argmax(1), lambda x: x.sum()])
def test_one_number_an_example_is_refused_with_what_to_write(form):
    said = (
        r"^the model returned \[5?\], and logits are \[batch, classes\]: .*output=lambda z: torch"
    )
    for options in ({}, {"at": "head"}):
        with pytest.raises(ValueError, match=said):
            wrap(followed_by(form), **options).predict(INPUTS)


def test_a_binary_classifier_is_wrapped_as_that_sentence_says():
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 1), nn.Flatten(0))
    classifier = wrap(
        model, at="1", output=lambda z: torch.stack([-z / 2, z / 2], 1), memory_size=8
    )
    second = classifier.predict_proba(INPUTS).values[:, 1]
    torch.testing.assert_close(second, model(INPUTS).detach().sigmoid())
    classifier.learn(INPUTS, list("abcde"))
    assert classifier.classes == [0, 1, *"abcde"] and classifier.predict(INPUTS) == list("abcde")


def test_of_an_encoder_of_texts_the_tokens_are_averaged_under_the_mask():
    states = torch.rand(2, 3, 4)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])

    class Encoder(nn.Module):
        def forward(self, tokens, attention_mask=None):
            return {"last_hidden_state": states, "hidden_states": (states,)}

    classifier = wrap(Encoder(), host=False, memory_size=8)
    inputs = {"tokens": torch.ones(2, 3)}
    torch.testing.assert_close(classifier.features(inputs), states.mean(1))
    masked = classifier.features({**inputs, "attention_mask": mask})
    torch.testing.assert_close(masked, torch.stack([states[0, :2].mean(0), states[1, 0]]))


def test_what_is_pooled_goes_before_the_tokens():
    pooled = torch.rand(5, 4, 1, 1)
    model = Model(lambda m, x: {"last_hidden_state": x, "pooler_output": pooled})
    assert torch.equal(wrap(model, host=False).features(INPUTS), pooled.flatten(1))
