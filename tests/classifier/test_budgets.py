"""Selecting examples, budgets of slots and protected classes, by labels and with refs."""

import pytest
import torch

from rarememory import (
    EMPTY,
    ClosestToCentre,
    Herding,
    LeastUsed,
    Memory,
    MemoryClassifier,
    PerClass,
    Protected,
    Reservoir,
    store,
    wrap,
)
from tests.memories import bits


def birds(update: object = None, size: int = 4, **options: object) -> MemoryClassifier:
    memory = Memory(3, size, update=update)
    return wrap(torch.nn.Identity(), host=False, memory=memory, reader="nearest", **options)


@pytest.mark.parametrize("select", [Herding(2), ClosestToCentre(2)], ids=repr)
def test_learning_remembers_what_the_selection_chooses_of_each_class(select):
    model, rows = birds(size=9), torch.randn(9, 3) * torch.rand(9, 1)
    labels, refs = ["kea", "weka", "kea"] * 3, list(range(9))
    parts = [(rows[:4], labels[:4], refs[:4]), (rows[4:], labels[4:], refs[4:])]
    learnt = model.learn(iter(parts), select=select, progress=False)
    units = torch.nn.functional.normalize(rows, dim=1)
    kept: set[int] = set()
    for label in ("kea", "weka"):
        own = [row for row in range(9) if labels[row] == label]
        kept |= {own[place] for place in select(units[own]).tolist()}
    assert {row for row in range(9) if learnt.slots[row] != EMPTY} == kept and len(kept) == 4
    assert {ref for one in model.examples() for ref in one.refs} == kept
    assert all(model.examples()[learnt.slots[row]].label == labels[row] for row in kept)


def test_refs_and_labels_follow_what_a_policy_does_not_keep():
    model = birds(Reservoir(), size=3)
    learnt = model.learn(torch.randn(40, 3), [f"bird {n % 9}" for n in range(40)], range(40))
    assert len(learnt.slots) == 40 and len(model.memory) == 3
    stored = {one.slot: (one.label, *one.refs) for one in model.examples()}
    assert {*model.classes} == {label for label, _ in stored.values()}
    for slot, (label, ref) in stored.items():
        assert learnt.slots[ref] == slot and label == f"bird {ref % 9}"
    assert model.learn(torch.randn(2, 3), ["kea", "kea"]).slots.shape == (2,)


def test_a_protected_class_is_kept_saved_and_undone(tmp_path):
    model = birds(PerClass(2, LeastUsed(average=False)), size=3)
    model.learn(torch.randn(2, 3), ["kea", "weka"])
    with pytest.raises(ValueError, match="'kiwi' is not known"):
        model.protect("kea", "kiwi")
    with model.snapshot():
        model.protect("weka")
    assert model.protected == []
    with model.memory.read_only(), pytest.raises(RuntimeError, match="protect outside"):
        model.protect("kea")
    model.protect("kea")
    model.save(tmp_path / "birds.rm")
    loaded = MemoryClassifier.load(tmp_path / "birds.rm", torch.nn.Identity())
    other = birds(PerClass(2, LeastUsed(average=False)), size=3)
    other.load_state_dict(model.state_dict())
    for one in (model, loaded, other):
        assert one.memory.update == Protected([0], PerClass(2, LeastUsed(average=False)))
        for n in range(4):
            one.learn(torch.randn(3), f"bird {n}")
        assert "kea" in one.classes and one.protected == ["kea"]
    model.unprotect("kea")
    model.learn(torch.randn(3, 3), ["a", "b", "c"])
    assert "kea" not in model.classes and model.protected == []


def test_what_finds_no_slot_beside_protected_classes_is_refused_whole():
    model = birds(size=2)
    model.learn(torch.eye(3)[:2], ["kea", "weka"])
    model.protect("kea", "weka")
    before = bits(model.memory)
    with pytest.raises(ValueError, match="1 rows need a slot, and 0 may be given up"):
        model.learn(torch.eye(3)[2], "kiwi")
    with pytest.raises(ValueError, match="at most 2 examples, the slots of the memory, are learnt"):
        model.learn(torch.eye(3), ["kea", "kea", "kiwi"])
    assert bits(model.memory) == before and model.classes == ["kea", "weka"]


@pytest.mark.parametrize(
    "update", [PerClass(Herding(2)), Reservoir(2), Protected([0], PerClass(ClosestToCentre(1)))]
)
def test_every_policy_is_saved_with_what_it_has_seen(tmp_path, update):
    model = birds(update, size=7)
    for _ in range(3):
        model.learn(torch.randn(5, 3), ["kea", "kea", "weka", "kea", "kiwi"])
    model.save(tmp_path / "birds.rm")
    loaded = MemoryClassifier.load(tmp_path / "birds.rm", torch.nn.Identity())
    assert loaded.memory.update == update and bits(loaded.memory) == bits(model.memory)
    row = torch.randn(4, 3)
    slots = [one.learn(row, ["kea"] * 4).slots.tolist() for one in (model, loaded)]
    assert slots[0] == slots[1]


def test_workers_of_a_store_agree_on_what_is_protected(tmp_path):
    url = f"sqlite:///{tmp_path}/birds.db"

    def opened() -> MemoryClassifier:
        memory = Memory(3, 4, update=PerClass(Herding(2)))
        options = {"host": False, "memory": memory, "reader": "nearest", "poll": None}
        return store.wrap(torch.nn.Identity(), store=url, **options)

    one, other = opened(), opened()
    one.learn(torch.randn(5, 3), ["kea"] * 3 + ["weka"] * 2)
    one.protect("kea")
    other.learn(torch.randn(3, 3), ["a", "b", "kea"])
    one.learn(torch.randn(3), "c")
    for worker in (one, other, opened()):
        worker.wait_for(one.version)
        assert worker.protected == ["kea"] and worker.classes == ["kea", "b", "c"]
        assert bits(worker.memory) == bits(one.memory)
