"""The book of names, and the refs of the slots."""

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


def exactly(label):
    return (type(label), *map(exactly, label)) if isinstance(label, tuple) else (type(label), label)


@given(st.lists(LABELS))
def test_a_label_keeps_its_number_and_its_kind(labels):
    names = LabelBook()
    ids = names.add(labels)
    assert [exactly(names.label(number)) for number in ids] == [exactly(label) for label in labels]
    assert names.ids(labels) == ids == names.add(labels)
    assert len(names) == len({exactly(label) for label in labels})


@given(st.lists(LABELS))
def test_a_book_comes_back_from_json_as_it_was(labels):
    names = LabelBook(labels)
    again = LabelBook.from_json(json.loads(json.dumps(names.to_json())))
    assert [*map(exactly, again)] == [*map(exactly, names)]
    assert again.ids([*labels, "new"]) == names.ids([*labels, "new"])


def test_labels_that_python_holds_equal_are_different_labels():
    names = LabelBook([1, True, 1.0, "1", (1,), (True,)])
    assert len(names) == 6
    assert names.known_ids([True]) == [1] and names.known_ids([(True,)]) == [5]


def test_asking_for_numbers_writes_nothing_down():
    names = LabelBook(["kea"])
    assert names.ids(["weka", "kea", "weka", "kiwi"]) == [1, 0, 1, 2]
    assert list(names) == ["kea"]


def test_a_number_is_never_given_twice():
    names = LabelBook(["kea", "kakapo"])
    rest = names.restricted(torch.tensor([0, EMPTY]), torch.tensor([EMPTY]))
    assert list(rest) == ["kea"] and rest.add(["weka"]) == [2] and list(names) == ["kea", "kakapo"]
    none = rest.restricted(torch.tensor([EMPTY]), torch.tensor([], dtype=torch.int64))
    assert LabelBook.from_json(none.to_json()).add(["kiwi"]) == [3]


def test_numbers_of_numpy_and_torch_are_those_of_python():
    names = LabelBook([np.int64(3), np.str_("kea"), torch.tensor(2.5), np.bool_(True)])
    assert [exactly(label) for label in names] == [*map(exactly, (3, "kea", 2.5, True))]
    assert names.known_ids([3]) == [0]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("label", [["kea"], {"a": 1}, float("nan"), torch.zeros(2), (["kea"],)])
def test_what_cannot_be_a_label_is_refused(label):
    with pytest.raises(ValueError, match="label"):
        LabelBook([label])


def test_a_label_of_another_kind_lives_but_cannot_be_saved():
    Bird = Enum("Bird", ["KEA"])
    names = LabelBook([Bird.KEA, frozenset({"wing"})])
    assert names.known_ids([Bird.KEA]) == [0]
    with pytest.raises(ValueError, match="Bird"):
        names.to_json()


def test_a_stranger_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'keaa' is not known here; known: 'kea', 'weka'$"):
        LabelBook(["kea", "weka"]).known_ids(["kea", "keaa"])
    with pytest.raises(ValueError, match="'0', '1', '2', '3', '4' and 2 more"):
        LabelBook(map(str, range(7))).known_ids(["kea"])


@given(LABELS)
def test_what_is_encoded_is_decoded_exactly(label):
    assert exactly(label_from_json(json.loads(json.dumps(label_to_json(label))))) == exactly(label)


def test_an_averaged_example_adds_its_ref_and_a_fresh_one_begins_anew():
    refs = LabelBook()
    refs.note_refs([0, 1], [True, True], [["a"], ["b"]])
    refs.note_refs([0, 0, 1], [False, False, True], [["c"], ["d"], [None]])
    assert refs.refs(0) == ("a", "c", "d") and refs.refs(1) == ()
    assert refs.slots_by_ref() == {"a": [0], "c": [0], "d": [0]}


def test_a_ref_met_again_is_listed_once_as_the_latest():
    refs = LabelBook()
    refs.note_refs([0, 0, 0], [True, False, False], [["a"], ["b"], ["a"]])
    assert refs.refs(0) == ("b", "a")


def test_a_slot_keeps_its_latest_refs_only():
    refs = LabelBook()
    refs.note_refs([0] * 40, [True] + [False] * 39, [[ref] for ref in range(40)])
    assert refs.refs(0) == tuple(range(40 - MAX_REFS, 40))


def test_refs_follow_a_resized_memory():
    refs = LabelBook()
    refs.note_refs([0, 2], [True, True], [["a"], ["b"]])
    refs.move_refs([2, -1])
    assert refs.refs(0) == ("b",) and refs.slots_by_ref() == {"b": [0]}


def test_a_path_is_its_text():
    assert python_ref(Path("birds") / "kea.png") == str(Path("birds") / "kea.png")
