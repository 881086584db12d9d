"""A write that is foreseen is the one that is then made, and nothing was changed to see it."""

import pytest
import torch
from memories import alike_rows, bits

from rarememory import AverageOrReplace, FirstInFirstOut, LeastUsed, MeanMemory, Memory
from rarememory.base.state import EMPTY
from rarememory.memory import drafts, writing
from rarememory.memory.foreseeing import foresee, foresee_again
from rarememory.native import is_supported


def memory_of(size, rows, key_dim=6, **options):
    memory = Memory(key_dim, size, update=FirstInFirstOut(), **options)
    memory.register_slot_buffer("prices", fill=9.5)
    if rows:
        memory.write(alike_rows(rows, key_dim, 0), torch.arange(rows) % 7)
        memory.prices[:rows] = 1.0
    return memory


def check(foreseen, memory, rows, labels):
    """What was foreseen is what a write does now."""
    before = {name: memory.get_buffer(name).clone() for name in memory.empty_slots(1)}
    done = memory.write(rows, labels)
    assert all(map(torch.equal, foreseen.write, done))
    for name, held in before.items():
        held[foreseen.order] = foreseen.rows[name]
        assert torch.equal(held, memory.get_buffer(name)), name


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("count", [1, 7, 33])
@pytest.mark.parametrize("held", [0, 20, 40])
def test_a_write_that_is_foreseen_is_the_one_that_is_made(native, count, held, monkeypatch):
    monkeypatch.setattr(writing, "_is_native", lambda *some: native and is_supported(*some[1:]))
    memory, rows, labels = memory_of(40, held), alike_rows(count, 6, 1), torch.arange(count) % 5
    before = bits(memory)
    foreseen = foresee(memory, rows, labels)
    assert bits(memory) == before
    check(foreseen, memory, rows, labels)


@pytest.mark.parametrize("others", [0, 1, 9, 40])
@pytest.mark.parametrize("followed", [False, True])
def test_it_is_foreseen_again_after_other_writes(others, followed, monkeypatch):
    if followed:
        monkeypatch.setattr(drafts, "_MANY", 1)
        monkeypatch.setattr(drafts, "_MOST", 20)
    memory, rows, labels = memory_of(60, 50), alike_rows(7, 6, 1), torch.arange(7) % 5
    foreseen = foresee(memory, rows, labels)
    changed = torch.zeros(0, dtype=torch.int64)
    for seed in range(2):
        if others:
            theirs = memory.write(alike_rows(others, 6, seed + 2), torch.arange(others) % 6)
            changed = torch.cat([changed, theirs.slots]).unique()
        again = foresee_again(memory, foreseen, changed)
    check(again, memory, rows, labels)


def test_only_a_plain_queue_is_foreseen():
    rows, labels = alike_rows(3, 6, 1), torch.arange(3)
    queue = FirstInFirstOut()
    for memory in (
        Memory(6, 8, update=AverageOrReplace(age_noise=0.0)),
        Memory(6, 8, update=AverageOrReplace()),
        Memory(6, 8, update=LeastUsed(average=False), count_usage=True),
        Memory(6, 8, update=queue, count_usage=True),
        Memory(6, 2, update=queue),
        MeanMemory(6, 8),
    ):
        assert foresee(memory, rows, labels) is None
    assert (
        foresee(Memory(6, 3, update=queue), rows, labels).write.overwritten.tolist() == [EMPTY] * 3
    )
    bad = Memory(6, 3, update=queue, validate=False)
    assert foresee(bad, rows * torch.nan, labels) is None


def test_a_row_that_cannot_be_written_is_not_foreseen():
    with pytest.raises(ValueError, match="finite and not zero"):
        foresee(memory_of(8, 3), torch.zeros(1, 6), torch.tensor([1]))
