"""Classifiers that were learnt apart become one: labels and refs by name."""

import warnings
from copy import deepcopy

import pytest
import torch
from classifiers import at, everything, hosted
from classifiers import bare as averaging
from torch import nn

from rarememory import FirstInFirstOut, LeastUsed, Memory, MemoryClassifier, wrap


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
    with pytest.warns(UserWarning, match="2 slots have no room .* is left of 'tui': "):
        assert deepcopy(one).merge(other) == 1
    # Where a warning is an error, all is merged before it.
    with warnings.catch_warnings(action="error"), pytest.raises(UserWarning, match="'tui'"):
        one.merge(other)
    assert one.predict(at(180)) == ["weka"]
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
    with pytest.raises(ValueError, match="cannot be merged with itself"):
        one.merge(one)
    with pytest.raises(ValueError, match="with a MemoryClassifier, not with a Memory"):
        one.merge(Memory(4, 4))
    assert everything(one) == before


def test_a_width_that_is_not_known_yet_is_that_of_what_is_taken_over():
    learnt_one, fresh = (wrap(nn.Flatten(), host=False) for _ in range(2))
    learnt_one.learn(torch.eye(4)[:2], ["kea", "weka"])
    before = everything(learnt_one)
    assert learnt_one.merge(fresh) == 0 and everything(learnt_one) == before
    nothing = everything(fresh)
    with fresh.memory.read_only(), pytest.raises(RuntimeError, match="merge outside"):
        fresh.merge(learnt_one)
    assert everything(fresh) == nothing
    assert fresh.merge(learnt_one) == 2
    assert fresh.predict(torch.eye(4)[:2]) == ["kea", "weka"]


def encoder(seed, width=3):
    torch.manual_seed(seed)
    return wrap(nn.Linear(4, width), host=False)


def test_what_two_models_have_learnt_is_not_mixed(tmp_path):
    one, copy, other, wider = encoder(1), encoder(1), encoder(2), encoder(1, 5)
    for classifier in (one, copy, other, wider):
        classifier.learn(torch.eye(4)[:2], ["kea", "weka"])
    before = everything(one)
    # A file around no model has the features that its model had.
    files = []
    for classifier in (copy, other):
        classifier.save(tmp_path / "birds.safetensors")
        files.append(MemoryClassifier.load(tmp_path / "birds.safetensors", None))
    for stranger, how in (
        (other, "differ by"),
        (wider, "have width 3 and 5"),
        (files[1], "differ"),
    ):
        with pytest.raises(
            ValueError, match=f"different models, whose features of the same .*{how}"
        ):
            one.merge(stranger)
        assert everything(one) == before
    with pytest.raises(ValueError, match="different models"):
        encoder(3).merge(one)
    with pytest.raises(ValueError, match="different models"):
        files[1].merge(files[0])
    assert one.merge(copy) == one.merge(files[0]) == 2 and len(one.memory) == 6
    assert files[0].merge(copy) == 2


def test_a_model_that_cannot_take_the_made_up_input_is_not_asked():
    class Texts(nn.Module):
        def forward(self, texts: list[str]) -> torch.Tensor:
            return torch.tensor([[float(len(text)), 1.0] for text in texts])

    one, other = (wrap(Texts(), host=False) for _ in range(2))
    one.learn(["kea", "kakapo"], ["kea", "kakapo"])
    other.learn(["tui"], ["tui"])
    assert one.merge(other) == 1


def test_one_reader_takes_over_what_another_has_learnt():
    fitted, nearest = (wrap(nn.Flatten(), host=False, reader=r) for r in ("fitted", "nearest"))
    fitted.learn(3 * torch.eye(4)[:2], ["kea", "weka"])
    nearest.learn(3 * torch.eye(4)[2:], ["tui", "moa"])
    before = everything(nearest)
    assert fitted.merge(nearest) == 2
    assert fitted.memory.norms[:4].tolist() == [3, 3, 1, 1]
    assert everything(nearest) == before
    assert nearest.merge(fitted) == 4 and len(nearest.memory) == 6


def counting():
    memory = Memory(2, 8, update=LeastUsed(average=False))
    return MemoryClassifier(nn.Identity(), host=False, memory=memory)


def test_usage_goes_along_with_whatever_is_done_to_a_classifier(tmp_path):
    one, other = (
        learnt(counting(), (0, 90), ["a", "b"], None),
        learnt(counting(), (180,), ["c"], None),
    )
    for classifier, angles in ((one, (1, 2, 91)), (other, (181,)), (other, (181,))):
        classifier.memory.record(classifier.memory(at(*angles)))
    one.save(tmp_path / "birds.safetensors")
    again = counting()
    again.load_state_dict(one.state_dict())
    loaded = MemoryClassifier.load(tmp_path / "birds.safetensors", nn.Identity())
    assert loaded.memory.update == LeastUsed(average=False)
    for same in (again, loaded, deepcopy(one)):
        assert everything(same) == everything(one)
    with one.snapshot():
        one.memory.record(one.memory(at(0)))
        one.merge(other)
    assert everything(one) == everything(again)
    assert one.merge(other) == 1
    assert one.memory.usage.uses[:3].tolist() == [2, 1, 2]
    one.resize(2)
    # Of equal ages, so the lower slots.
    assert one.memory.usage.uses.tolist() == [2, 1] and one.memory.usage.reads == 2
    for uncounted, counted in ((bare(), other), (other, learnt(bare(), (0,), ["d"], None))):
        before = everything(uncounted)
        with pytest.raises(ValueError, match="keeps used of each slot"):
            uncounted.merge(counted)
        assert everything(uncounted) == before
