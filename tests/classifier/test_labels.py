"""Labels, refs, and the label book."""

import json
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rarememory import EMPTY
from rarememory.classifier.label_book import MAX_REFS, LabelBook
from rarememory.classifier.labels import label_from_json, label_to_json, python_ref

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
LABELS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)


def typed(label):
    return (type(label), *map(typed, label)) if isinstance(label, tuple) else (type(label), label)


@given(st.lists(LABELS))
def test_a_label_keeps_its_number_and_its_type(labels):
    book = LabelBook()
    ids = book.add(labels)
    assert [typed(book.label(number)) for number in ids] == [typed(label) for label in labels]
    assert book.ids(labels) == ids == book.add(labels)
    assert len(book) == len({typed(label) for label in labels})
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


def test_a_label_of_another_type_can_be_used_but_not_saved():
    Bird = Enum("Bird", ["KEA"])
    book = LabelBook([Bird.KEA, frozenset({"wing"})])
    assert book.known_ids([Bird.KEA]) == [0]
    with pytest.raises(ValueError, match="Bird"):
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
