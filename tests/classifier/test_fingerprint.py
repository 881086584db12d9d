"""A memory knows the encoder again that it was learnt with."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from rarememory import MemoryClassifier, wrap
from rarememory.classifier.persistence import read_file, write_file

INPUTS = torch.rand(5, 6, generator=torch.Generator().manual_seed(0))


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))


class OfTokens(nn.Module):
    """Takes token ids, a mask and kinds of tokens, of which it knows one only."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.tokens, self.kinds = nn.Embedding(9, 4), nn.Embedding(1, 4)

    def forward(self, ids, mask, kinds):
        assert mask.any(1).all()
        return ((self.tokens(ids) + self.kinds(kinds)) * mask.unsqueeze(2)).mean(1)


class OfTexts(nn.Module):
    """Counts letters, some of which count more."""

    def __init__(self, seed=0):
        super().__init__()
        self.weights = torch.rand(3, generator=torch.Generator().manual_seed(seed))

    def forward(self, texts):
        counts = [[text.count(letter) for letter in "abc"] for text in texts]
        return torch.tensor(counts) * self.weights


def tokens():
    ids = torch.tensor([[3, 8, 0], [5, 0, 0]])
    return {"ids": ids, "mask": ids > 0, "kinds": torch.zeros_like(ids)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "birds.safetensors"


def saved(path, model, inputs=INPUTS, **options):
    classifier = wrap(model, memory_size=8, **options)
    count = len(inputs["ids"]) if isinstance(inputs, dict) else len(inputs)
    classifier.learn(inputs, list(range(10, 10 + count)), list(range(count)))
    classifier.save(path)
    return classifier


@pytest.mark.parametrize(
    ("make", "inputs", "options"),
    [
        (network, INPUTS, {}),
        (OfTokens, tokens(), {"host": False}),
        (OfTexts, ["aab", "ccb"], {"host": False}),
        (OfTexts, ("aab", "ccb"), {"host": False}),
    ],
    ids=["numbers", "tokens", "texts", "texts in a tuple"],
)
def test_another_model_of_the_same_width_is_noticed(make, inputs, options, path):
    saved(path, make(), inputs, **options)
    # The same model is known again: a warning would be an error here.
    for strict in (False, True):
        MemoryClassifier.load(path, make().train(), strict=strict)
    MemoryClassifier.load(path, make().bfloat16())
    said = r"birds.* was saved around another model: .* differ from those of the file by \d+%"
    with pytest.warns(UserWarning, match=said):
        again = MemoryClassifier.load(path, make(seed=1))
    assert len(again.memory) == len(again.examples()) > 0
    with pytest.raises(ValueError, match=said):
        MemoryClassifier.load(path, make(seed=1), strict=True)


def test_the_difference_is_measured(path):
    encoder = nn.Linear(6, 4, bias=False)
    saved(path, encoder, host=False)
    with torch.no_grad():
        encoder.weight *= 1.04
    MemoryClassifier.load(path, encoder, strict=True)
    with torch.no_grad():
        encoder.weight *= 1.25 / 1.04
    with pytest.raises(ValueError, match=r"by 25% of their length, and only 5% are usual"):
        MemoryClassifier.load(path, encoder, strict=True)


def test_a_model_that_cannot_take_such_an_input_is_noticed(path):
    saved(path, nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Flatten()), host=False)
    with pytest.warns(UserWarning, match="cannot take the input of the fingerprint"):
        MemoryClassifier.load(path, nn.Sequential(nn.Unflatten(1, (4, 3)), nn.Flatten()))


def test_a_file_without_a_fingerprint_loads_as_before(path):
    saved(path, network())
    tensors, header = read_file(path)
    del tensors["fingerprint"], header["example"]
    write_file(path, tensors, header)
    MemoryClassifier.load(path, network(seed=1), strict=True)


def test_a_file_of_texts_without_a_fingerprint_loads_and_gets_one(path):
    saved(path, OfTexts(), ["aab", "ccb"], host=False)
    tensors, header = read_file(path)
    # An older version reads "example", and does not know "text".
    assert header["example"] is None and header.pop("text") is True
    del tensors["fingerprint"]
    write_file(path, tensors, header)
    again = MemoryClassifier.load(path, OfTexts(), strict=True)
    again.learn(["bbb"], ["kea"])
    again.save(path)
    with pytest.raises(ValueError, match="differ from those of the file"):
        MemoryClassifier.load(path, OfTexts(seed=1), strict=True)


def test_the_header_of_a_file_of_tensors_says_nothing_of_texts(path):
    saved(path, network())
    assert "text" not in read_file(path)[1]


def test_a_file_that_is_saved_again_keeps_the_fingerprint_of_its_keys(path):
    saved(path, network())
    before = read_file(path)[0]["fingerprint"]
    with pytest.warns(UserWarning, match="another model"):
        again = MemoryClassifier.load(path, network(seed=1))
    again.save(path)
    assert torch.equal(read_file(path)[0]["fingerprint"], before)
    MemoryClassifier.load(path, None).save(path)
    assert torch.equal(read_file(path)[0]["fingerprint"], before)


def test_keys_of_another_model_bring_its_fingerprint(path):
    saved(path, network())
    for renew in ("refresh", "learn"):
        with pytest.warns(UserWarning, match="another model"):
            again = MemoryClassifier.load(path, network(seed=1))
        if renew == "refresh":
            again.refresh([(INPUTS, range(5))])
        else:
            again.memory.clear()
            again.learn(INPUTS, range(5))
        again.save(path.with_suffix(".again"))
        MemoryClassifier.load(path.with_suffix(".again"), network(seed=1), strict=True)


class Refusing(nn.Module):
    def forward(self, x):
        if len(x) == 1:
            raise RuntimeError("no batch of one")
        return x


class OfPairs(nn.Module):
    def forward(self, pairs):
        return torch.tensor([[len(text) for text in pair] for pair in pairs]).float()


class Zero(nn.Module):
    def forward(self, x):
        return x * (x > 1)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [(Refusing(), INPUTS), (OfPairs(), [("kea", "green"), ("weka", "dun")]), (Zero(), INPUTS + 1)],
    ids=["refuses", "neither tensors nor texts", "zero"],
)
def test_what_has_no_fingerprint_is_saved_without(model, inputs, path):
    saved(path, model, inputs, host=False)
    assert "fingerprint" not in read_file(path)[0]
    MemoryClassifier.load(path, model, strict=True)


def test_neither_the_model_nor_torchs_randomness_is_changed(path):
    model = network().train()
    before, state = deepcopy(model.state_dict()), torch.get_rng_state()
    saved(path, model)
    MemoryClassifier.load(path, model)
    assert torch.equal(torch.get_rng_state(), state) and model[1].training
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())
