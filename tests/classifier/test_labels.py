"""Labels, refs, and the label book."""

import json
import math
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
import torch
from classifiers import at, bare
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rarememory import EMPTY, FirstInFirstOut, MemoryClassifier
from rarememory.classifier.label_book import MAX_REFS, LabelBook
from rarememory.classifier.labels import label_from_json, label_to_json, python_ref

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
LABELS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)


KEA, MAORI = "k\u00e9a", ("M\u0101ori", 1)


def decomposed(label):
    """The label as a Mac spells it: letters and their accents apart."""
    if isinstance(label, tuple):
        return tuple(map(decomposed, label))
    return normalize("NFD", label) if isinstance(label, str) else label


def typed(label):
    return (type(label), *map(typed, label)) if isinstance(label, tuple) else (type(label), label)


@given(st.lists(LABELS))
def test_a_label_keeps_its_number_and_its_type(labels):
    book = LabelBook()
    ids = book.add(labels)
    found = [typed(decomposed(book.label(number))) for number in ids]
    assert found == [typed(decomposed(label)) for label in labels]
    assert book.ids(labels) == ids == book.add(labels)
    assert len(book) == len({typed(decomposed(label)) for label in labels})
    again = LabelBook.from_json(json.loads(json.dumps(book.to_json())))
    assert [*map(typed, again)] == [*map(typed, book)]
    assert again.ids([*labels, "new"]) == book.ids([*labels, "new"])
    for label in labels:
        assert typed(label_from_json(json.loads(json.dumps(label_to_json(label))))) == typed(label)


def test_labels_that_python_holds_equal_are_different_labels():
    book = LabelBook([1, True, 1.0, "1", (1,), (True,)])
    assert len(book) == 6
    assert book.known_ids([True]) == [1] and book.known_ids([(True,)]) == [5]


def test_asking_for_numbers_adds_nothing():
    book = LabelBook(["kea"])
    assert book.ids(["weka", "kea", "weka", "kiwi"]) == [1, 0, 1, 2]
    assert list(book) == ["kea"]


def test_a_number_is_never_given_twice():
    book = LabelBook(["kea", "kakapo"])
    rest = book.restricted(torch.tensor([0, EMPTY]), torch.tensor([EMPTY]))
    assert list(rest) == ["kea"] and rest.add(["weka"]) == [2] and list(book) == ["kea", "kakapo"]
    none = rest.restricted(torch.tensor([EMPTY]), torch.tensor([], dtype=torch.int64))
    assert LabelBook.from_json(none.to_json()).add(["kiwi"]) == [3]


def test_numbers_of_numpy_and_torch_are_those_of_python():
    book = LabelBook([np.int64(3), np.str_("kea"), torch.tensor(2.5), np.bool_(True)])
    assert [typed(label) for label in book] == [*map(typed, (3, "kea", 2.5, True))]
    assert book.known_ids([3]) == [0]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("label", [["kea"], {"a": 1}, float("nan"), torch.zeros(2), (["kea"],)])
def test_what_cannot_be_a_label_is_refused(label):
    with pytest.raises(ValueError, match="label"):
        LabelBook([label])


class Bird(StrEnum):
    KEA = "kea"
    WEKA = "weka"


class Loud(str, Enum):  # noqa: UP042
    KEA = "kea"

    def __str__(self):
        return "KEA!"


class Number(IntEnum):
    ONE = 1


class Place(NamedTuple):
    name: str
    number: int


class Celsius(float):
    pass


@pytest.mark.parametrize(
    ("label", "plain"),
    [
        (Bird.KEA, "kea"),
        (Loud.KEA, "kea"),
        (Number.ONE, 1),
        (Celsius(2.5), 2.5),
        (Place(Bird.WEKA, Number.ONE), ("weka", 1)),
        (np.float64(2.5), 2.5),
    ],
)
def test_what_is_a_str_or_a_number_by_inheritance_is_that_plain_value(label, plain):
    book = LabelBook([label])
    assert [typed(one) for one in book] == [typed(plain)]
    assert book.known_ids([plain]) == book.known_ids([label]) == [0]
    assert [*LabelBook.from_json(book.to_json())] == [plain]


def test_members_of_an_enumeration_are_learnt_predicted_saved_and_forgotten(tmp_path):
    classifier = bare()
    classifier.learn(at(0, 90), list(Bird))
    assert classifier.predict(at(0, 90)) == list(Bird)
    classifier.save(tmp_path / "birds.safetensors")
    again = MemoryClassifier.load(tmp_path / "birds.safetensors", classifier.model)
    assert again.forget(Bird.KEA) == 1 and again.classes == ["weka"]


def test_two_spellings_of_one_name_are_one_label():
    assert decomposed(KEA) != KEA
    classifier = bare()
    classifier.learn(at(0, 90), [decomposed(KEA), decomposed(MAORI)])
    classifier.learn(at(1, 91), [KEA, MAORI])
    # The spelling that came first stays.
    assert classifier.classes == [decomposed(KEA), decomposed(MAORI)]
    assert classifier.forget(KEA, MAORI) == len({0, 1}) and classifier.classes == []


def test_a_ref_is_found_in_any_spelling():
    birds = bare(update=FirstInFirstOut())
    refs = ["Kākāpō.png", ("Kea", "é"), "weka.png"]
    birds.learn(at(0, 90, 180), ["a", "b", "c"], refs)
    batch = at(0, 90), [decomposed(refs[0]), decomposed(("Kea", "é"))]
    assert birds.drift([batch]).slots == birds.refresh([batch]).slots == 2
    assert birds.forget_refs(decomposed(refs[0]), refs[0]) == (1, [])
    assert birds.forget_refs(decomposed(("Kea", "é"))) == (1, [])
    assert [one.refs for one in birds.examples()] == [("weka.png",)]


def test_a_ref_that_is_learnt_again_in_another_spelling_is_one_ref():
    book = LabelBook()
    book.note_refs([0, 0], [True, False], [["Kākāpō.png"], [decomposed("Kākāpō.png")]])
    assert book.refs(0) == (decomposed("Kākāpō.png"),)


def test_no_class_has_the_name_of_what_is_unknown_in_another_spelling():
    birds = bare(unknown="étranger")
    for label in ("étranger", decomposed("étranger")):
        with pytest.raises(ValueError, match="is what predict says of what it does not know"):
            birds.learn(at(0), [label])


def test_two_spellings_in_an_older_file_can_both_be_forgotten():
    stored = LabelBook(["weka"]).to_json()
    stored["names"] = {"next": 3, "labels": [[0, "weka"], [1, KEA], [2, decomposed(KEA)]]}
    book, nothing = LabelBook.from_json(stored), torch.tensor([], dtype=torch.int64)
    for number in (2, 1):
        assert book.known_ids([KEA]) == book.known_ids([decomposed(KEA)]) == [number]
        book = book.restricted(torch.arange(number), nothing)
    assert list(book) == ["weka"] and book.known_ids(["weka"]) == [0]


@pytest.mark.parametrize(
    "nothing", [math.nan, np.float32("nan"), np.datetime64("NaT"), Decimal("nan")]
)
def test_missing_labels_are_refused_by_their_rows(nothing):
    classifier = bare()
    with pytest.raises(
        ValueError, match=r"labels are missing .* in rows 1, 2: fill them in, or leave"
    ):
        classifier.learn(at(0, 90, 180), ["kea", nothing, nothing])
    with pytest.raises(ValueError, match=r"rows 0, 1, 2, 3, 4, 5, 6, 7 and 12 more:"):
        classifier.learn(at(*range(20)), [nothing] * 20)
    with pytest.raises(ValueError, match=r"a label must equal itself, and (nan|NaN|NaT) does not"):
        classifier.learn(at(0)[0], ("kea", nothing))
    with pytest.raises(ValueError, match=r"refs are missing .* in rows 0"):
        classifier.learn(at(0), ["kea"], [nothing])
    assert not classifier.classes
    # None is a label like others.
    classifier.learn(at(0), [None])
    assert classifier.predict(at(0)) == [None]


class Colour(Enum):
    RED = 1


LOST = {
    "Enum": (Colour.RED, r"<Colour\.RED: 1> is a Colour: write {}\.name"),
    "date": (date(2024, 1, 2), r"is a date: write str\({}\)"),
    "datetime": (datetime(2024, 1, 2, 3), r"is a datetime: write str\({}\)"),
    "timedelta": (timedelta(1), r"is a timedelta: write str\({}\)"),
    "Timestamp": (pd.Timestamp("2024-01-02"), r"is a Timestamp: write str\({}\)"),
    "Interval": (pd.Interval(0, 1), r"is a Interval: write str\({}\)"),
    "Period": (pd.Period("2024"), r"is a Period: write str\({}\)"),
    "days": (np.datetime64("2024-01-02"), r"is a datetime64: write str\({}\)"),
    # NumPy gives these as integers.
    "nanoseconds": (np.datetime64(1, "ns"), r"is a datetime64: write str\({}\)"),
    "a length of time": (np.timedelta64(1, "ns"), r"is a timedelta64: write str\({}\)"),
    "bytes": (b"kea", r"b'kea' is a bytes: write {}\.hex\(\)"),
    "bytes of NumPy": (np.bytes_(b"kea"), r"b'kea' is a bytes: write {}\.hex\(\)"),
    "Decimal": (Decimal("1.5"), r"is a Decimal: write str\({}\)"),
    "UUID": (UUID(int=1), r"is a UUID: write str\({}\)"),
    "complex": (np.complex64(1), r"is a complex: write str\({}\)"),
    "longdouble": (np.longdouble(1), r"is a longdouble: write str\({}\)"),
    "frozenset": (frozenset({"a"}), r"is a frozenset: write tuple\(sorted\({}\)\)"),
    "in a tuple": (("kea", (1, date(2024, 1, 2))), r"is a date: write str\({}\)"),
}


@pytest.mark.parametrize(("lost", "said"), LOST.values(), ids=LOST)
def test_what_a_file_cannot_hold_is_refused_when_it_is_learnt(lost, said, tmp_path):
    kept = "must be a str, int, float, bool, None or a tuple of these, which a file can hold, and "
    said_of_label = f"^a label {kept}.*{said.format('label')}$"
    classifier = bare()
    for labels in (["kea", lost], pd.Series(["kea", lost], dtype=object)):
        with pytest.raises(ValueError, match=said_of_label):
            classifier.learn(at(0, 90), labels)
    with pytest.raises(ValueError, match=said_of_label):
        classifier.learn(iter([(at(0), [lost])]))
    with pytest.raises(ValueError, match=f"^a ref {kept}.*{said.format('ref')}$"):
        classifier.learn(at(0), ["kea"], refs=[lost])
    with pytest.raises(ValueError, match=said_of_label):
        MemoryClassifier(nn.Linear(2, 2), classes=["kea", lost])
    assert not classifier.classes and not len(classifier.memory)
    classifier.learn(at(0), ["kea"], refs=[str(lost)])
    classifier.save(tmp_path / "birds.safetensors")


def test_a_path_is_a_ref_but_no_label():
    with pytest.raises(ValueError, match=r"^a label .* is a P\w+Path: write str\(label\)$"):
        bare().learn(at(0), [Path("kea.png")])
    classifier = bare()
    classifier.learn(at(0), ["kea"], refs=[Path("kea.png")])
    assert classifier.forget_refs(Path("kea.png")).slots == 1


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
def test_a_column_of_times_is_refused_in_every_unit(unit):
    times = pd.date_range("2024-01-01", periods=2, unit=unit)
    for labels in (times, pd.Series(times), times.to_numpy(), [*times]):
        with pytest.raises(ValueError, match=r"is a (datetime64|Timestamp): write str\(label\)$"):
            bare().learn(at(0, 90), labels)


def test_what_an_older_version_learnt_and_no_file_holds_is_refused_by_save():
    book = LabelBook()
    book._set(Colour.RED, 0)
    with pytest.raises(ValueError, match="is a Colour"):
        book.to_json()


def test_an_unknown_label_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'keaa' is not known here; known: 'kea', 'weka'$"):
        LabelBook(["kea", "weka"]).known_ids(["kea", "keaa"])
    with pytest.raises(ValueError, match="'0', '1', '2', '3', '4' and 2 more"):
        LabelBook(map(str, range(7))).known_ids(["kea"])


@pytest.mark.parametrize(
    ("writes", "refs"),
    [
        ([(0, "a", True), (1, "b", True), (0, "c", False)], {0: ("a", "c"), 1: ("b",)}),
        ([(1, "b", True), (1, None, True)], {1: ()}),
        ([(0, "a", True), (0, "b", False), (0, "a", False)], {0: ("b", "a")}),
        ([(0, ref, not ref) for ref in range(40)], {0: tuple(range(40 - MAX_REFS, 40))}),
    ],
    ids=["averaged", "replaced", "met again", "too many"],
)
def test_a_slot_has_the_refs_of_what_is_in_it(writes, refs):
    book = LabelBook()
    for slot, ref, replaced in writes:
        book.note_refs([slot], [replaced], [[ref]])
    assert {slot: book.refs(slot) for slot in refs} == refs


def test_rows_of_one_write_that_share_a_slot_are_all_noted():
    book = LabelBook()
    book.note_refs([0, 0, 1], [True, True, False], [["a", None], ["b"], ["c"]])
    assert book.slots_by_ref() == {"a": [0], "b": [0], "c": [1]}


def test_refs_follow_a_resized_memory():
    book = LabelBook()
    book.note_refs([0, 2], [True, True], [["a"], ["b"]])
    book.move_refs([2, EMPTY])
    assert book.refs(0) == ("b",) and book.slots_by_ref() == {"b": [0]}


def test_a_path_is_its_text():
    assert python_ref(Path("birds") / "kea.png") == str(Path("birds") / "kea.png")


def test_the_classes_follow_the_slots_and_the_labels_however_they_change():
    book, values = LabelBook(["kea", "weka", "kiwi"]), torch.tensor([1, EMPTY])
    host_ids = values[:0]

    def present(of=book):
        return of.labels(of.present(values, host_ids))

    assert present() == ["weka"]
    values.numpy()[1] = 2
    assert present() == ["weka", "kiwi"]
    with book.draft():
        values[1] = 3
        book.add(["takahe"])
        assert present() == ["weka", "takahe"]
    values[1] = 2
    assert present() == ["weka", "kiwi"]
    rest = book.restricted(values, host_ids)
    values[1] = 0
    assert present() == ["kea", "weka"] and present(rest) == ["weka"]
