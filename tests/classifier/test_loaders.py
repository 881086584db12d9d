"""Loaders wherever a batch is taken, and models of several arguments, which come in a dict."""

import math

import pytest
import torch
from classifiers import at, bare, everything, hosted
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from rarememory import Memory, MemoryClassifier

ANGLES = (0, 20, 80, 100, 170, 185, 260)
NAMES = ["kea", "kea", "weka", "weka", "moa", "moa", "kiwi"]


def batches(size: int = 3) -> list[tuple[torch.Tensor, list[str]]]:
    """The examples in uneven batches, the last of a single one."""
    inputs = at(*ANGLES)
    return [(inputs[i : i + size], NAMES[i : i + size]) for i in range(0, len(NAMES), size)]


def knowing(**options: object) -> MemoryClassifier:
    classifier = hosted(torch.eye(2), memory_size=16, classes=["kea", "weka"], **options)
    classifier.learn(at(10, 90, 180, 270), ["kea", "weka", "moa", "kiwi"], ["1", "2", "3", "4"])
    return classifier


LOADERS = {
    "inputs": lambda: DataLoader(at(*ANGLES), batch_size=3),
    "lists of inputs": lambda: DataLoader(TensorDataset(at(*ANGLES)), batch_size=3),
    "inputs and labels": lambda: iter(batches()),
    "with refs": lambda: ((*batch, batch[1]) for batch in batches()),
    "arrays": lambda: (inputs.numpy() for inputs, _ in batches()),
}


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_a_loader_is_answered_as_its_examples_are(loader):
    classifier = knowing()
    assert classifier.predict(loader()) == classifier.predict(at(*ANGLES))
    one, other = classifier.predict_proba(loader()), classifier.predict_proba(at(*ANGLES))
    assert one.classes == other.classes and torch.allclose(one.values, other.values)
    slots = [[found.slot for found in row] for row in classifier.explain(loader(), k=2)]
    whole = classifier.explain(at(*ANGLES), k=2)
    assert slots == [[found.slot for found in row] for row in whole]
    assert classifier.doctor(loader()) == classifier.doctor(at(*ANGLES))


def test_a_model_may_write_all_its_outputs_into_one_tensor():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.outputs = torch.zeros(3, 2)

        def forward(self, inputs):
            return self.outputs[: len(inputs)].copy_(inputs)

    classifier = MemoryClassifier(InPlace(), host=False, memory=Memory(2, 16), batch_size=3)
    classifier.learn(at(10, 90, 180), ["kea", "weka", "moa"])
    loader = DataLoader(at(*ANGLES), batch_size=3)
    one, other = classifier.predict_proba(loader), classifier.predict_proba(at(*ANGLES))
    assert torch.allclose(one.values, other.values)
    assert classifier.predict(at(*ANGLES)) == ["kea", "kea", "weka", "weka", "moa", "moa", "moa"]


def test_a_loader_is_answered_as_it_comes_and_not_gathered_first():
    said = []

    class Says(nn.Module):
        def forward(self, inputs):
            said.append("answered")
            return inputs

    def loader():
        for inputs, _ in batches():
            said.append("yielded")
            yield inputs

    MemoryClassifier(Says(), host=False, memory=Memory(2, 8)).predict(loader())
    assert said == ["yielded", "answered"] * 3


def test_texts_in_a_list_are_inputs_themselves():
    class Lengths(nn.Module):
        def forward(self, texts):
            return at(*(10.0 * len(text) for text in texts))

    classifier = MemoryClassifier(Lengths(), host=False, memory=Memory(2, 8))
    classifier.learn(["a", "bbbbbbbbb"], ["short", "long"])
    assert classifier.predict(iter([["aa", "bbbbbbbb"], ["cc"]])) == ["short", "long", "short"]
    assert classifier.predict(iter([(["aa", "bbbbbbbb"], [0, 1])])) == ["short", "long"]
    assert classifier.predict("aa") == "short"


def test_an_empty_loader_has_no_answers_and_nothing_to_fit_to():
    classifier = knowing()
    before = everything(classifier)
    assert classifier.predict(iter([])) == classifier.explain(iter([])) == []
    assert classifier.predict_proba(iter([])).values.shape == (0, 4)
    assert classifier.doctor(iter([])).idle == [0, 1, 2, 3]
    for refused in (
        lambda: classifier.fit_threshold(iter([])),
        lambda: classifier.fit_threshold(unknown=iter([])),
        lambda: classifier.calibrate(iter([])),
    ):
        with pytest.raises(ValueError, match=r"needs (labelled )?examples"):
            refused()
    assert everything(classifier) == before


FITS = {
    "threshold": lambda classifier, known, _, **options: classifier.fit_threshold(
        *known, **options
    ),
    "unknown": lambda classifier, _, unknown, **options: classifier.fit_threshold(
        unknown=unknown, **options
    ),
    "calibration": lambda classifier, known, _, **options: classifier.calibrate(*known, **options),
}


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_a_loader_fits_as_its_examples_do(fit):
    one, other = knowing(), knowing()
    fit(one, [iter(batches())], iter(batches()))
    fit(other, [at(*ANGLES), NAMES], at(*ANGLES))
    assert everything(one)[:2] == everything(other)[:2] != everything(knowing())[:2]


@pytest.mark.parametrize(
    "ask",
    [
        MemoryClassifier.learn,
        MemoryClassifier.predict,
        MemoryClassifier.predict_proba,
        MemoryClassifier.explain,
        MemoryClassifier.familiarity,
        *(
            lambda classifier, loader, fit=fit, **options: fit(
                classifier, [loader], loader, **options
            )
            for fit in FITS.values()
        ),
    ],
)
def test_a_progress_bar_is_shown_if_it_is_wanted(capsys, ask):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    for progress in (True, False, None):
        ask(knowing(), iter(batches()), progress=progress)
        shown = capsys.readouterr().err.replace(" ", "")
        assert "3batch" in shown if progress else shown == ""


@pytest.mark.parametrize("beside", [{"labels": ["kea"]}, {"refs": ["1.png"]}], ids=str)
def test_a_loader_with_labels_or_refs_beside_it_is_refused(beside):
    with pytest.raises(ValueError, match="a loader yields labels and refs itself"):
        bare().learn(iter(batches()), **beside)


def test_fitting_needs_labels_that_are_known():
    with pytest.raises(ValueError, match="a label for each example"):
        knowing().calibrate(at(0))
    with pytest.raises(ValueError, match="'tui' is not known here"):
        knowing().calibrate(iter([(at(0), ["tui"])]))
    with pytest.raises(ValueError, match="must yield"):
        knowing().fit_threshold(iter([at(0)]))
    with pytest.raises(ValueError, match="a batch 2; these inputs have 3"):
        knowing().calibrate(torch.rand(1, 1, 2), ["kea"])


class Masked(nn.Module):
    """Takes two arguments, as a language model does: tokens, and which of them count."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(at(0, 40, 90, 180), freeze=False)
        self.head = nn.Linear(2, 2, bias=False)

    def forward(self, *, input_ids, attention_mask=None):
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.head((self.embedding(input_ids) * mask.unsqueeze(-1)).sum(1))


TOKENS = {
    "input_ids": torch.tensor([[0, 3], [2, 0], [3, 2]]),
    "attention_mask": torch.tensor([[1, 0], [1, 0], [1, 0]]),
}


@pytest.mark.parametrize("batch_size", [2, 256])
def test_a_model_of_several_arguments_takes_a_dict_of_them(batch_size):
    classifier = MemoryClassifier(Masked(), classes=["a", "b"], batch_size=batch_size)
    classifier.learn(TOKENS, ["kea", "weka", "moa"], ["1", "2", "3"])
    classifier.ensembler.weights[1] = -1.0
    assert classifier.predict(TOKENS) == ["kea", "weka", "moa"]
    assert classifier.predict({"input_ids": torch.tensor([[1]])}) == ["kea"]
    assert [row[0].ref for row in classifier.explain(TOKENS)] == ["1", "2", "3"]
    assert torch.allclose(classifier.predict_proba(TOKENS).values, classifier(TOKENS))
    assert classifier.predict(iter([TOKENS, (TOKENS, [0, 0, 0])])) == ["kea", "weka", "moa"] * 2
    assert classifier.drift([(TOKENS, ["1", "2", "3"])]).lowest == pytest.approx(1)
    assert classifier.fit_threshold(TOKENS, ["kea", "weka", "moa"]) > -math.inf
    classifier.loss(TOKENS, ["weka", "moa", "kea"]).backward()
    assert classifier.model.embedding.weight.grad.any()
    # One example in a dict is a batch of one.
    one = {name: part[:1] for name, part in TOKENS.items()}
    assert len(classifier.learn(one, "kea").slots) == len(classifier.predict(one)) == 1
    with pytest.raises(ValueError, match="the inputs are 3 examples, with 1 label:"):
        classifier.learn(TOKENS, "kea")


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"input_ids": [[1], [2, 3]]},
        {"input_ids": torch.ones(2, 1).long(), "attention_mask": torch.ones(3, 1)},
        {"input_ids": torch.ones(2, 1).long(), "use_cache": False},
        {"input_ids": torch.tensor(1)},
    ],
    ids=["none", "ragged", "uneven", "no tensor", "no rows"],
)
def test_parts_that_do_not_fit_each_other_are_refused(parts):
    classifier = MemoryClassifier(Masked(), classes=["a", "b"])
    for asked in (classifier.predict, lambda parts: classifier.learn(parts, ["kea", "weka"])):
        with pytest.raises(ValueError, match=r"a row for each example, and their rows are \{"):
            asked(parts)
