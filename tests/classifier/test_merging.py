"""Classifiers that were learnt apart become one: labels and refs by name."""

import pytest
import torch
from classifiers import at, everything, hosted
from classifiers import bare as averaging

from rarememory import FirstInFirstOut


def bare(*args, **options):
    return averaging(*args, update=FirstInFirstOut(), **options)


def learnt(classifier, angles, labels, refs):
    classifier.learn(at(*angles), labels, refs=refs)
    return classifier


@pytest.mark.parametrize("reader", ["fitted", "nearest"])
def test_shards_learnt_apart_know_what_one_classifier_knows(reader):
    one = learnt(bare(reader=reader), (0, 120), ["kea", "weka"], ["1", "2"])
    other = learnt(bare(reader=reader), (240, 5, 200), ["tui", "kea", "weka"], ["3", "4", "5"])
    whole = bare(reader=reader)
    learnt(whole, (0, 120, 240, 5, 200), ["kea", "weka", "tui", "kea", "weka"], list("12345"))
    before = everything(other)
    assert one.merge(other) == 3
    assert everything(other) == before
    both = [{(e.label, e.refs) for e in found.examples()} for found in (one, whole)]
    assert both[0] == both[1] and len(both[0]) == 5
    queries = at(*range(0, 360, 7))
    assert one.predict(queries) == whole.predict(queries)
    one.forget("kea")
    assert one.classes == ["weka", "tui"]


def test_what_finds_no_room_leaves_no_label_and_no_ref():
    one = learnt(bare(2), (0,), ["kea"], ["1"])
    for angle in (10, 20):
        one.learn(at(angle), ["kea"], refs=[str(angle)])
    other = learnt(bare(2), (90,), ["tui"], ["t"])
    other.learn(at(180), ["weka"], refs=["w"])
    assert one.merge(other) == 1
    assert one.classes == ["kea", "weka"]
    assert {e.refs for e in one.examples()} == {("20",), ("w",)}


def test_classes_of_the_host_are_joined_by_name():
    one, other = (
        hosted(torch.eye(2), classes=classes, reader="nearest")
        for classes in (["kea", "weka"], ["weka", "kea"])
    )
    other.learn(at(0), ["kea"], refs=["k"])
    assert one.merge(other) == 1
    assert one.memory.values[0] == 0 and one.classes == ["kea", "weka"]


def test_an_empty_one_adds_nothing_and_unknown_stays_no_class():
    one = learnt(bare(), (0,), ["kea"], ["1"])
    before = everything(one)
    assert one.merge(bare()) == 0
    assert everything(one) == before
    with pytest.raises(ValueError, match="no class can be called that"):
        bare(unknown="kea").merge(one)
