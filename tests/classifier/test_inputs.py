"""Inputs and labels in whatever holds them: columns of tables, views of dicts, generators."""

import math
from collections import UserString, deque

import numpy as np
import pytest
import torch
from classifiers import at, bare, everything
from torch import nn

from rarememory import Memory, MemoryClassifier

TEXTS, NAMES = ["a", "bbbbbbbbb"], ["short", "long"]


class Lengths(nn.Module):
    """Encodes a list of texts, one by its length; a text alone would be a list of its letters."""

    def forward(self, texts):
        assert isinstance(texts, list), texts
        assert all(type(text) is str for text in texts), texts
        return at(*(10.0 * len(text) for text in texts))


def reader(**options):
    options = {"reader": "nearest", **options}
    classifier = MemoryClassifier(Lengths(), host=False, memory=Memory(2, 8), **options)
    classifier.learn(TEXTS, NAMES)
    return classifier


class Column:
    """A column of a table in the least that other libraries have in common."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=object)

    def __iter__(self):
        return iter(self.values)

    def __len__(self):
        return len(self.values)


def table(kind):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    return {
        "series": pandas.Series,
        "objects": lambda values: pandas.Series(values, dtype=object),
        "index": pandas.Index,
        "categorical": lambda values: pandas.Series(values, dtype="category"),
        "pd.array": pandas.array,
        "of a frame": lambda values: pandas.DataFrame({"column": values})["column"],
    }[kind]


WAYS = {
    "list": list,
    "column": Column,
    "numpy": np.array,
    "objects of numpy": lambda values: np.array(values, dtype=object),
    "generator": lambda values: (value for value in values),
    "map": lambda values: map(lambda value: value, values),
    "values of a dict": lambda values: dict(enumerate(values)).values(),
    "keys of a dict": lambda values: dict.fromkeys(values).keys(),
    "deque": deque,
}
TABLES = ["series", "objects", "index", "categorical", "pd.array", "of a frame"]


def way(name):
    return WAYS[name] if name in WAYS else table(name)


@pytest.mark.parametrize("name", [*WAYS, *TABLES])
def test_texts_in_anything_are_texts_and_not_their_letters(name):
    holder, asked = way(name), ["aa", "bbbbbbbb", "c"]
    classifier, answers = reader(), ["short", "long", "short"]
    assert classifier.predict(holder(asked)) == answers
    assert classifier.predict_proba(holder(asked)).values.shape == (3, 2)
    assert [row[0].label for row in classifier.explain(holder(asked), k=1)] == answers
    assert torch.equal(classifier.features(holder(asked)), Lengths()(asked))
    if name not in ("generator", "map"):
        assert classifier.predict(iter([holder(asked), holder(asked)])) == answers * 2
    other, refs = reader(), [*TEXTS, "dd"]
    assert len(other.learn(holder(refs), holder(["short", "long", "new"]), holder(refs)).slots) == 3
    assert other.classes == ["short", "long", "new"]
    assert other.forget_refs("a").slots == 1
    expected, fitted = reader(), reader()
    expected.fit_threshold(unknown=asked)
    fitted.fit_threshold(unknown=holder(asked))
    assert everything(expected) == everything(fitted)


@pytest.mark.parametrize("nothing", [None, math.nan])
@pytest.mark.parametrize("holder", ["list", "objects", "generator", "series"])
def test_missing_texts_are_refused_by_their_rows(holder, nothing):
    classifier, asked = reader(), way(holder)(["aa", nothing, "c", nothing])
    before, said = (
        everything(classifier),
        r"^texts are missing \(None, NaN or NA\) in rows 1, 3: fill",
    )
    with pytest.raises(ValueError, match=said):
        classifier.predict(asked)
    with pytest.raises(ValueError, match=said):
        classifier.learn(way(holder)(["aa", nothing, "c", nothing]), list("abcd"))
    assert everything(classifier) == before


def test_a_missing_text_of_pandas_is_refused_too():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    with pytest.raises(ValueError, match=r"texts are missing .* in rows 0:"):
        reader().predict(pandas.Series([None, "aa"], dtype="string"))


def test_a_list_without_texts_may_hold_what_it_likes():
    class OfAnything(nn.Module):
        def forward(self, things):
            return at(*(0.0 if one is None else 90.0 for one in things))

    classifier = MemoryClassifier(OfAnything(), host=False)
    classifier.learn([None, object()], ["nothing", "something"])
    assert classifier.predict([3, None]) == ["something", "nothing"]


def test_a_userstring_is_a_text_and_not_its_letters():
    classifier = reader()
    assert classifier.predict(UserString("aa")) == "short"
    assert classifier.predict([UserString("aa"), "bbbbbbbb"]) == ["short", "long"]
    with pytest.raises(ValueError, match="must be a list of them, not the text 'aa'"):
        classifier.learn(UserString("aa"), ["short", "long"])
    with pytest.raises(ValueError, match="must be a list of them, not the text b'aa'"):
        classifier.learn(b"aa", ["short", "long"])


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_bytes_without_a_shape_are_refused_and_not_taken_for_numbers(kind):
    said = rf"a {kind.__name__} is neither a text nor numbers: give bytes\(\) of it, or numpy"
    with pytest.raises(ValueError, match=said):
        reader().predict(kind(b"aa"))
    with pytest.raises(ValueError, match=said):
        reader().learn(kind(b"aa"), ["short", "long"])


@pytest.mark.parametrize("kinds", [("Float64", "Int64"), ("float64", "boolean"), ("Float32",) * 2])
def test_a_table_of_pandas_own_numbers_is_taken_where_none_is_missing(kinds):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    columns = {"x": pandas.array([1, 0], kinds[0]), "y": pandas.array([0, 1], kinds[1])}
    frame = pandas.DataFrame(columns)
    classifier = bare()
    classifier.learn(frame, NAMES)
    assert torch.equal(classifier.features(frame), torch.eye(2).to(classifier.features(frame)))
    assert classifier.predict(frame) == NAMES
    frame["y"] = frame["y"].astype("Float64")
    frame.loc[1, "y"] = pandas.NA
    with pytest.raises(ValueError, match="the column 'y' has no number in rows 1: fill"):
        classifier.predict(frame)


@pytest.mark.parametrize("text", ["aa", np.str_("aa")])
def test_a_text_alone_is_one_example(text):
    classifier = reader()
    assert classifier.predict(text) == "short"
    classifier.learn("ccccc", np.str_("middle"))
    assert classifier.predict("cccccc") == "middle" and "middle" in classifier.classes


def test_an_encoder_of_texts_takes_any_text_and_its_own_errors_stay():
    classifier = reader()
    assert classifier.predict("kea.jpg") == "long" and classifier.predict(["kea.jpg"]) == ["long"]

    class Words(nn.Module):
        def forward(self, texts):
            return at(*({"kea": 0.0, "weka": 90.0}[text] for text in texts))

    words = MemoryClassifier(Words(), host=False)
    words.learn(["kea", "weka"], NAMES)
    with pytest.raises(KeyError, match="tui"):
        words.predict("tui")


def test_a_text_beside_labels_in_a_list_is_refused_and_not_counted_by_its_letters():
    with pytest.raises(ValueError, match="inputs of a batch must be a list of them, not the text"):
        reader().learn("aa", ["short", "long"])


@pytest.mark.parametrize("name", [*WAYS, *TABLES])
@pytest.mark.parametrize("labels", [[3, 1, 2], ["kea", "weka", "moa"]], ids=["integers", "texts"])
def test_labels_may_be_in_anything(name, labels):
    classifier = bare()
    classifier.learn(at(0, 90, 180), way(name)(labels))
    assert classifier.classes == labels
    assert [type(label) for label in classifier.classes] == [type(labels[0])] * 3
    report = classifier.calibrate(at(1, 91, 181), way(name)(labels))
    assert report.examples == 3
    assert classifier.loss(at(1, 91, 181), way(name)(labels)).isfinite()
    classifier.learn(iter([(at(2, 92, 182), way(name)(labels))]))
    assert classifier.classes == labels


@pytest.mark.parametrize("holder", ["series", "objects", "categorical", "index", "pd.array"])
def test_missing_labels_of_a_column_are_refused_by_their_rows(holder):
    classifier = bare()
    with pytest.raises(
        ValueError, match=r"labels are missing \(NaN, NaT or NA\) in rows 1, 3: fill"
    ):
        classifier.learn(at(0, 90, 180, 270), table(holder)(["kea", None, "moa", None]))
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    for values in ([pandas.NA, "kea"], pandas.array([None, 3]), [pandas.NaT, "kea"]):
        with pytest.raises(ValueError, match=r"labels are missing .* in rows 0"):
            classifier.learn(at(0, 90), values)
    assert not classifier.classes


@pytest.mark.parametrize(
    "labels", [np.array([["kea"], ["moa"]]), torch.tensor([[0], [1]])], ids=str
)
def test_labels_of_two_dimensions_are_refused(labels):
    with pytest.raises(ValueError, match=r"labels must have one dimension, and these are \[2, 1\]"):
        bare().learn(at(0, 90), labels)


IMAGES = np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3)
ODD_ARRAYS = {
    "backwards": IMAGES[:, ::-1].copy()[:, ::-1],
    "big-endian": IMAGES.astype(">f4"),
    "Fortran's order": np.asfortranarray(IMAGES),
    "in double": IMAGES.astype(np.float64),
}


@pytest.mark.parametrize("name", ODD_ARRAYS)
def test_arrays_that_torch_does_not_take_are_taken(name):
    array = ODD_ARRAYS[name]
    array.setflags(write=False)
    classifier = MemoryClassifier(nn.Flatten(), host=False, memory=Memory(12, 8))
    expected = torch.from_numpy(IMAGES.copy()).flatten(1)
    assert torch.equal(classifier.features(array).float(), expected)
    assert torch.equal(classifier.features(list(array)).float(), expected)
    classifier.learn(array[0], "kea")
    assert classifier.predict(array[0]) == "kea"
    assert classifier.predict(row for row in array) == classifier.predict(array)


class Angles(nn.Module):
    """Encodes one number an example."""

    def forward(self, degrees):
        return at(*degrees.tolist())


def test_an_example_may_be_a_number():
    classifier = MemoryClassifier(Angles(), host=False, memory=Memory(2, 8))
    classifier.learn(torch.tensor([0.0, 90.0]), NAMES)
    assert classifier.predict(np.array([1.0, 91.0])) == NAMES
    for number in (torch.tensor(91.0), np.array(91.0)):
        assert classifier.predict(number) == "long"
    assert classifier.predict(torch.zeros(0)) == []


def test_numbers_of_a_table_are_a_batch():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(at(0, 90).numpy(), columns=["x", "y"])
    classifier = bare()
    classifier.learn(frame, ["kea", "moa"])
    assert classifier.predict(frame) == ["kea", "moa"]
    assert classifier.predict(frame.iloc[1]) == "moa"
    assert classifier.predict(row for _, row in frame.iterrows()) == ["kea", "moa"]
    assert classifier.predict([row for _, row in frame.iterrows()]) == ["kea", "moa"]


@pytest.mark.parametrize("make", [reader, bare], ids=["texts", "numbers"])
@pytest.mark.parametrize(
    "nothing", [list, tuple, lambda: np.array([]), lambda: {}.values(), lambda: iter([]),
                lambda: torch.zeros(0, 2), lambda: Column([]), lambda: iter([[]])],
    ids=["list", "tuple", "array", "view", "iterator", "tensor", "column", "loader"],
)  # fmt: skip
def test_nothing_is_answered_by_nothing(make, nothing):
    classifier = make()
    if make is bare:
        classifier.learn(at(0, 90), NAMES)
    before = everything(classifier)
    assert classifier.predict(nothing()) == classifier.explain(nothing()) == []
    assert classifier.predict_proba(nothing()).values.shape == (0, 2)
    assert classifier.predict_proba(nothing()).top(1) == []
    assert classifier.familiarity(nothing()).shape == (0,)
    assert classifier.features(nothing()).shape == (0, 2)
    assert classifier.doctor(nothing()).idle == [0, 1]
    with pytest.raises(ValueError, match="needs examples"):
        classifier.fit_threshold(unknown=nothing())
    assert everything(classifier) == before


@pytest.mark.parametrize(
    "labels", [[], np.array([]), Column([]), {}.values()], ids=lambda labels: type(labels).__name__
)
def test_nothing_is_learnt_from_nothing(labels):
    classifier = reader()
    before = everything(classifier)
    assert classifier.learn([], labels).slots.tolist() == []
    for fit in (classifier.calibrate, classifier.fit_threshold, classifier.loss):
        with pytest.raises(ValueError, match=r"needs (labelled )?examples"):
            fit([], labels)
    assert everything(classifier) == before


def test_examples_of_several_shapes_are_refused():
    sentence = r"must have one shape, and these have \(2,\) and \(3,\)"
    with pytest.raises(ValueError, match=sentence):
        bare().predict([torch.ones(3), torch.ones(2)])
    with pytest.raises(ValueError, match=r"must hold numbers, and this one is of datetime64\[D\]"):
        bare().predict(np.array(["2024-01-01"], dtype="datetime64[D]"))


@pytest.mark.parametrize("array", [torch.tensor, np.array], ids=["torch", "numpy"])
def test_a_batch_of_examples_of_other_dimensions_is_refused(array):
    classifier = bare()
    classifier.learn(at(0, 90), ["kea", "weka"])
    for inputs in (2.0, [[[1.0, 0.0]]]):
        with pytest.raises(ValueError, match="one example has 1 dimensions here, and a batch 2"):
            classifier.predict(array(inputs))


def test_sparse_inputs_are_refused():
    classifier = bare()
    classifier.learn(at(0, 90), NAMES)
    before = everything(classifier)
    for asked in (classifier.predict, lambda inputs: classifier.learn(inputs, NAMES)):
        with pytest.raises(
            ValueError, match=r"dense, and these are torch.sparse_coo: .*to_dense\(\)"
        ):
            asked(at(0, 90).to_sparse())
        with pytest.raises(ValueError, match=r"dense, and these are torch\.sparse_coo"):
            asked(list(at(0, 90).to_sparse()))
        scipy = pytest.importorskip("scipy.sparse", reason="SciPy is not installed")
        with pytest.raises(
            ValueError, match=r"must be dense, and these are csr_matrix: .*toarray\(\)"
        ):
            asked(scipy.csr_matrix(at(0, 90).numpy()))
    assert everything(classifier) == before


def test_inputs_in_8_bits_are_taken_in_the_precision_of_the_model():
    classifier = bare()
    classifier.learn(at(0, 90).to(torch.float8_e4m3fn), NAMES)
    assert classifier.predict(at(1, 91).to(torch.float8_e5m2)) == NAMES
    assert classifier.memory.keys.dtype == torch.float32


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("number", [0, True, 2.5, "3"])
def test_counts_that_are_none_are_refused(number):
    with pytest.raises(ValueError, match="k must be an integer of at least 1, not"):
        reader().explain(TEXTS, k=number)
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1, not"):
        reader(batch_size=number)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, True, "0.5"])
def test_a_host_score_that_is_no_number_is_refused(score):
    with pytest.raises(ValueError, match="host_score must be a finite number, not"):
        MemoryClassifier(nn.Linear(4, 2), host_score=score)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"at": 0}, "at must be the name of a layer, as in 'backbone.fc', not 0"),
        ({"host": 2.5}, "host must be True, .* not 2.5"),
        ({"host": None}, "host must be True, .* not None"),
        ({"output": 2.5}, "output must be a key, a place or a function, not 2.5"),
        ({"output": True}, "output must be a key, a place or a function, not True"),
        ({"classes": "up"}, "classes must be a list with a name for each output, not 'up'"),
        ({"classes": 2}, "classes must be a list with a name for each output, not 2"),
        ({"memory": 8192}, "memory must be a Memory, not 8192: .* give memory_size="),
    ],
)
def test_options_of_another_kind_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        MemoryClassifier(nn.Linear(3, 2), **options)


@pytest.mark.usefixtures("unchecked")
def test_answers_are_asked_for_by_a_number_and_among_a_list():
    classifier = bare()
    classifier.learn(at(0, 90), NAMES)
    for n in (0, -1, 2.5, True, None):
        with pytest.raises(ValueError, match=f"n must be an integer of at least 1, not {n}"):
            classifier.predict_proba(at(0)).top(n)
    for among in ("kea", 3, True):
        with pytest.raises(ValueError, match=f"among must be a list of classes, not {among!r}"):
            classifier.predict(at(0), among=among)


def test_a_generator_of_examples_is_read_once_and_of_pairs_not_with_labels():
    classifier = reader()
    assert math.isfinite(classifier.fit_threshold((text for text in TEXTS), NAMES))
    with pytest.raises(ValueError, match="a loader yields labels and refs itself"):
        classifier.learn(((text, name) for text, name in zip(TEXTS, NAMES, strict=True)), NAMES)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, OSError])
def test_what_is_no_fault_of_the_inputs_is_raised_as_it_is(error: type[Exception]) -> None:
    class Full(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise error("full")

    with pytest.raises(error, match=r"^full$"):
        MemoryClassifier(Full(), host=False).learn(torch.ones(3, 8, 8), "kea")
