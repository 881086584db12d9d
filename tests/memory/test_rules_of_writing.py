"""The rules of a write: a set and no sequence, and a cost that grows with the batch."""

import pytest
import torch

from rarememory import (
    EMPTY,
    AverageOrReplace,
    AverageOrReplaceRandom,
    FirstInFirstOut,
    Memory,
)
from tests.memories import LOOKUPS, NewTensors, bits, holding
from tests.memory.test_rules import filled


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize("batch", [2, 7, 33, 129])
@pytest.mark.parametrize(
    "update", [AverageOrReplace(), FirstInFirstOut(), AverageOrReplaceRandom()], ids=repr
)
def test_a_permuted_batch_leaves_the_same_memory_to_the_bit(lookup, batch, update):
    start = filled(key_dim=33, lookup=lookup, update=update)
    near = torch.randint(0, 6, (batch,))
    rows = start.keys[near] + 0.1 * torch.randn(batch, 33)
    # Most rows hit, and many of them the same slot: the rounding of their sum depends on its order.
    labels = start.values[near].where(torch.rand(batch) < 0.8, torch.randint(0, 5, (batch,)))
    mask = torch.rand(batch) < 0.9
    results = []
    for order in [torch.arange(batch), *(torch.randperm(batch) for _ in range(3))]:
        memory = filled(key_dim=33, lookup=lookup, update=update)
        memory.load_state_dict(start.state_dict())
        done = memory.write(rows[order], labels[order], mask=mask[order])
        back = order.argsort()
        results.append((bits(memory), [part[back].tolist() for part in done]))
    assert all(result == results[0] for result in results[1:])


@pytest.mark.parametrize("count", [2, 7, 33])
def test_rows_that_hit_one_slot_are_summed_into_it_before_normalising(count):
    memory = holding(torch.tensor([[3.0, 4.0], [-1.0, 0.0]]), [5, 6])
    angles = torch.linspace(0.2, 1.4, count)
    rows = torch.stack([angles.cos(), angles.sin()], 1) * torch.rand(count, 1).add(0.1)
    done = memory.write(rows, torch.full((count,), 5))
    assert done.slots.eq(0).all() and done.hits.all() and done.overwritten.eq(EMPTY).all()
    total = torch.nn.functional.normalize(rows, dim=1).sum(0) + torch.tensor([0.6, 0.8])
    torch.testing.assert_close(memory.keys[0], total / total.norm())
    assert memory.keys[1].tolist() == [-1, 0] and memory.ages.tolist() == [0, 1]


def test_rows_that_cancel_the_key_leave_it_as_it_was():
    memory = holding(torch.tensor([[1.0, 0.0]]), [5])
    memory.write(torch.tensor([[-2.0, 0.0]]), torch.tensor([5]))
    assert memory.keys.tolist() == [[1, 0]] and memory.ages.tolist() == [0]


def test_misses_take_the_oldest_slots_each_its_own():
    memory = Memory(8, 8, update=AverageOrReplace(age_noise=0.0))
    for slot in [3, 0, 6, 1, 7, 2, 5, 4]:
        memory.write(torch.eye(8)[slot], torch.tensor(slot))
    # Slot i was written i-th.
    assert memory.ages.tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    done = memory.write(-torch.eye(8)[:3], torch.tensor([90, 91, 92]))
    assert done.slots.tolist() == [0, 1, 2] and done.overwritten.tolist() == [3, 0, 6]
    assert not done.hits.any()
    assert memory.ages.tolist() == [0, 0, 0, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_a_slot_just_hit_is_never_the_one_replaced(lookup):
    update = AverageOrReplace(age_noise=0.0)
    memory = holding(torch.eye(3), [0, 1, 2], lookup=lookup, update=update)
    memory.write(torch.eye(3)[1:], torch.tensor([1, 2]))
    # Slot 0 is the oldest of all, and is hit.
    done = memory.write(torch.tensor([[1.0, 0, 0], [0.0, 1, 0.9]]), torch.tensor([0, 9]))
    assert done.slots.tolist() == [0, 1] and done.hits.tolist() == [True, False]
    assert memory.values.tolist() == [0, 9, 2]


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize(("memory_size", "batch"), [(1, 7), (7, 33), (3, 129)])
def test_more_misses_than_slots_are_consecutive_writes(lookup, memory_size, batch):
    memory = Memory(9, memory_size, lookup=lookup, update=AverageOrReplace(age_noise=0.0))
    rows, labels = torch.randn(batch, 9), torch.arange(batch)
    done = memory.write(rows, labels)
    assert memory.clock.item() == -(-batch // memory_size)
    assert sorted(done.slots.tolist()) == sorted(i % memory_size for i in range(batch))
    assert memory.ages.max() <= 1
    # The rows go in the order of their labels, so these are the last.
    assert set(memory.values.tolist()) >= set(range(batch - batch % memory_size, batch))
    lost = set(range(batch)) - set(memory.values.tolist())
    assert set(done.overwritten.tolist()) - {EMPTY} == lost


def test_a_batch_may_be_thousands_of_times_the_memory():
    memory = Memory(2, 1)
    memory.write(torch.randn(1100, 2), torch.arange(1100))
    assert memory.clock.item() == 1100 and memory.values.tolist() == [1099]


def test_all_ages_grow_by_one_a_write_and_written_slots_get_0():
    memory = holding(torch.eye(4), [0, 1, 2, 3], memory_size=6)
    memory.write(torch.eye(4)[1:3], torch.tensor([1, 2]))
    assert memory.ages.tolist() == [1, 0, 0, 1, EMPTY, EMPTY]
    memory.write(-torch.eye(4)[1], torch.tensor(9))
    assert memory.ages.tolist() == [2, 1, 1, 2, 0, EMPTY]


def test_a_write_of_no_row_is_no_write():
    memory = filled()
    before = bits(memory)
    memory.write(torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64))
    memory.write(torch.randn(3, 7), torch.tensor([0, 1, 2]), mask=torch.zeros(3, dtype=bool))
    memory.write(memory(torch.randn(0, 7)), torch.zeros(0, dtype=torch.int64))
    assert bits(memory) == before


def test_a_write_whose_rows_all_hit_makes_nothing_as_large_as_the_memory():
    memory = holding(torch.randn(5000, 8), list(range(5000)))
    rows = memory.keys[:16].clone()
    recall, labels = memory(rows), torch.arange(16)
    with NewTensors(*memory.buffers()) as new:
        done = memory.write(recall, labels)
    assert done.hits.all() and 16 <= new.largest < 1000


@pytest.mark.usefixtures("torch_only")
def test_a_write_of_misses_looks_at_every_slot_but_at_no_key():
    memory = holding(torch.randn(5000, 8), list(range(5000)))
    recall = memory(torch.randn(16, 8))
    with NewTensors(*memory.buffers()) as new:
        memory.write(recall, torch.arange(9000, 9016))
    assert 5000 <= new.largest <= 5001
    assert {(5000,), (1, 5000)} >= {shape for shape in new.shapes if 5000 in shape}


@pytest.mark.parametrize("at_once", [True, False])
def test_an_entry_of_ones_own_stays_where_a_row_is_averaged_and_goes_where_one_is_put(at_once):
    memory = Memory(key_dim=3, memory_size=3, count_usage=True)
    memory.register_slot_buffer("prices", fill=1.0)
    memory.write(torch.eye(3), torch.tensor([0, 1, 2]))
    memory.prices += torch.arange(3.0)
    memory.reads += 5
    rows, labels = torch.eye(3)[:2], torch.tensor([0, 9])
    slots = memory.write(rows, labels, mask=None if at_once else torch.ones(2).bool()).slots
    prices, used = [1.0, 2.0, 3.0], [0, 0, 0]
    prices[slots[1]], used[slots[1]] = 1.0, 5
    assert slots[0] == 0 != slots[1]
    assert memory.prices.tolist() == prices and memory.used.tolist() == used
