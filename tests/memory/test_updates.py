"""Policies, and the write that carries them out."""

from dataclasses import FrozenInstanceError, dataclass

import pytest
import torch

from rarememory import (
    EMPTY,
    AverageOrReplace,
    AverageOrReplaceRandom,
    FirstInFirstOut,
    Memory,
    Update,
)
from rarememory.memory.updates import slot_noise
from rarememory.memory.writing import eviction_order
from tests.memories import LOOKUPS, bits, holding

POLICIES = [AverageOrReplace(), FirstInFirstOut(), AverageOrReplaceRandom()]

pytestmark = pytest.mark.usefixtures("engine")


def of_ages(*ages: int, **options) -> Memory:
    """A memory whose slots have these ages; EMPTY for an empty one."""
    memory = holding(torch.eye(len(ages)), list(range(len(ages))), **options)
    memory.clock.fill_(100)
    memory.written.copy_(100 - torch.tensor(ages))
    memory.forget(slots=[slot for slot, age in enumerate(ages) if age == EMPTY])
    return memory


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_a_policy_is_one_small_frozen_object(policy):
    assert isinstance(policy, Update)
    with pytest.raises(FrozenInstanceError):
        policy.age_noise = 3.0
    assert policy == type(policy)() and hash(policy) == hash(type(policy)())


def test_the_policies_answer_what_they_say():
    hits, ages = torch.tensor([True, False]), torch.tensor([3.0, 5.0], dtype=torch.float64)
    noise = torch.tensor([0.5, -0.25], dtype=torch.float64)
    assert AverageOrReplace().eviction(ages, noise).tolist() == [7, 3]
    assert AverageOrReplace(2.0).eviction(ages, noise).tolist() == [4, 4.5]
    assert FirstInFirstOut().eviction(ages, noise).tolist() == [3, 5]
    assert AverageOrReplaceRandom().eviction(ages, noise).tolist() == [0.5, -0.25]
    assert AverageOrReplace().averages(hits).tolist() == [True, False]
    assert AverageOrReplaceRandom().averages(hits).tolist() == [True, False]
    assert FirstInFirstOut().averages(hits).tolist() == [False, False]


def test_a_policy_of_ones_own_plugs_in():
    @dataclass(frozen=True)
    class YoungestFirst:
        def averages(self, hits):
            return hits

        def eviction(self, ages, noise):
            return -ages

    memory = of_ages(3, 0, 7, update=YoungestFirst())
    assert memory.write(-torch.eye(3)[0], torch.tensor(9)).slots.item() == 1
    assert memory.write(torch.eye(3)[2], torch.tensor(2)).hits.item()


def test_a_policy_may_choose_which_hits_to_average():
    class AveragesEverySecond(AverageOrReplace):
        def averages(self, hits):
            # What it says of rows that miss is of no account.
            return torch.arange(len(hits)) % 2 == 0

    memory = of_ages(0, 0, 0, 9, EMPTY, update=AveragesEverySecond(0.0))
    rows = torch.eye(5)[[0, 1, 2, 2]] + torch.eye(5)[3] * 0.1
    done = memory.write(rows, torch.tensor([0, 1, 9, 2]))
    assert done.hits.tolist() == [True, True, False, True]
    # In the order of their labels: 1, 2, 9.
    assert done.slots.tolist() == [0, 4, 1, 3]
    assert done.overwritten.tolist() == [EMPTY, EMPTY, 1, 3]


def test_a_hit_that_is_not_averaged_is_a_hit_all_the_same():
    memory = of_ages(1, 0, update=FirstInFirstOut())
    done = memory.write(torch.eye(2)[1], torch.tensor(1))
    assert done.hits.item() and done.slots.item() == 0 and done.overwritten.item() == 0


@pytest.mark.parametrize(
    ("verb", "answer", "said"),
    [
        ("averages", lambda hits: True, "averages gave a bool for 2 rows: give a tensor of one"),
        ("averages", lambda hits: hits[:1], r"averages gave \[1\] numbers on cpu for 2 rows"),
        ("eviction", lambda ages, noise: ages.tolist(), "eviction gave a list for 3 slots on cpu"),
        ("eviction", lambda ages, noise: ages[:1], r"eviction gave \[1\] numbers on cpu for 3"),
    ],
)
def test_an_answer_of_a_policy_that_is_not_one_a_row_or_slot_is_refused(verb, answer, said):
    class Wrong(AverageOrReplace):
        pass

    memory = of_ages(3, 0, 7, update=Wrong())
    setattr(Wrong, verb, staticmethod(answer))
    before = bits(memory)
    with pytest.raises(ValueError, match=f"Wrong.{said}"):
        memory.write(torch.tensor([[1.0, 1, 0], [0, 1, 1]]), torch.tensor([8, 9]))
    assert bits(memory) == before


def test_empty_slots_go_first_then_the_oldest_then_the_lower():
    memory = of_ages(3, EMPTY, 5, 3, EMPTY, 5, 0)
    order = eviction_order(memory.state, FirstInFirstOut(), 7)
    assert order.tolist() == [1, 4, 2, 5, 0, 3, 6]
    for count in range(1, 8):
        assert (
            eviction_order(memory.state, FirstInFirstOut(), count).tolist()
            == ([1, 4, 2, 5, 0, 3, 6][:count])
        )
    assert eviction_order(memory.state, FirstInFirstOut(), 99).tolist() == [1, 4, 2, 5, 0, 3, 6]


def test_protected_slots_are_never_given_up():
    memory = of_ages(3, EMPTY, 5, 3, EMPTY, 5, 0)
    keep = torch.tensor([2, EMPTY, 1, 2, EMPTY])
    order = eviction_order(memory.state, FirstInFirstOut(), 7, keep=keep)
    assert order.tolist() == [4, 5, 0, 3, 6, EMPTY, EMPTY]
    order = eviction_order(memory.state, FirstInFirstOut(), 2, keep=torch.tensor([4, 5]))
    assert order.tolist() == [1, 2]


@pytest.mark.parametrize("memory_size", [1, 7, 33, 129])
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_the_order_of_eviction_is_that_of_a_sort(memory_size, policy):
    memory = of_ages(*torch.randint(0, 6, (memory_size,)).tolist(), seed=5)
    noise = slot_noise(torch.tensor(5), torch.tensor(100), memory_size)
    priority = policy.eviction(memory.ages.double(), noise).tolist()
    truth = sorted(range(memory_size), key=lambda slot: (-priority[slot], slot))
    for count in (1, memory_size // 2 + 1, memory_size):
        assert eviction_order(memory.state, policy, count).tolist() == truth[:count]


@pytest.mark.parametrize("priority", [float("-inf"), float("inf"), float("nan")])
def test_a_policy_cannot_keep_a_row_from_being_written_nor_an_empty_slot_from_being_taken(priority):
    class Extreme(AverageOrReplace):
        def eviction(self, ages, noise):
            return torch.full_like(ages, priority)

    memory = of_ages(4, EMPTY, 1, update=Extreme())
    assert memory.write(-torch.eye(3), torch.arange(10, 13)).slots.tolist() == [1, 0, 2]
    memory.write(torch.randn(7, 3), torch.arange(20, 27))
    assert memory.values.tolist() == [26, 24, 25]


def test_equally_old_slots_are_given_up_at_random_and_all_in_the_end():
    memory = Memory(32, 7, update=AverageOrReplaceRandom())
    memory.write(torch.randn(7, 32), torch.arange(7))
    slots = [memory.write(torch.randn(32), torch.tensor(10 + i)).slots.item() for i in range(70)]
    assert set(slots) == set(range(7)) and max(slots.count(slot) for slot in range(7)) < 25


def test_first_in_first_out_is_a_ring():
    memory = Memory(4, 5, update=FirstInFirstOut())
    for step in range(20):
        row = torch.randn(4)
        done = memory.write(row, torch.tensor(step % 3))
        assert done.slots.item() == step % 5
        torch.testing.assert_close(memory.keys[step % 5], row / row.norm())
    assert sorted(memory.ages.tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize("labelled", [True, False])
def test_a_recall_is_written_as_its_queries_are(lookup, labelled):
    mine, theirs = (Memory(9, 33, lookup=lookup, seed=1) for _ in range(2))
    for step in range(9):
        rows, labels = torch.randn(40 if step == 5 else 7, 9), torch.randint(0, 4, (7,))
        labels = labels.repeat(6)[: len(rows)]
        mask = torch.rand(len(rows)) < 0.8
        recall = mine(rows.requires_grad_(), labels if labelled else None, k=4)
        done = mine.write(recall, labels, mask=mask)
        truth = theirs.write(rows, labels, mask=mask)
        assert all(torch.equal(a, b) for a, b in zip(done, truth, strict=True))
        assert bits(mine) == bits(theirs)


def test_what_was_overwritten_is_told():
    memory = of_ages(9, 8, EMPTY, update=AverageOrReplace(0.0))
    rows, labels = torch.cat([-torch.eye(3), torch.eye(3)[:1]]), torch.tensor([7, 8, 9, 0])
    done = memory.write(rows, labels, mask=torch.tensor([True, True, False, True]))
    assert done.slots.tolist() == [2, 1, EMPTY, 0]
    assert done.hits.tolist() == [False, False, False, True]
    assert done.overwritten.tolist() == [EMPTY, 1, EMPTY, EMPTY]


def test_rows_take_their_slots_in_the_order_of_their_labels():
    memory = Memory(4, 4)
    done = memory.write(torch.randn(4, 4), torch.tensor([9, 2, 7, 4]))
    assert done.slots.tolist() == [3, 0, 2, 1] and memory.values.tolist() == [2, 4, 7, 9]


def test_two_slots_are_averaged_into_at_once_each_with_its_own_rows():
    memory = holding(torch.eye(3), [0, 1, 2])
    rows = torch.tensor([[0, 1, 0.5], [1, 0, 0.5], [0, 1, -0.5], [1, 0.5, 0], [0, 0.2, 9]])
    done = memory.write(rows, torch.tensor([1, 0, 1, 0, 2]))
    assert done.slots.tolist() == [1, 0, 1, 0, 2]
    unit = torch.nn.functional.normalize(rows, dim=1)
    sums = torch.eye(3) + torch.stack([unit[1] + unit[3], unit[0] + unit[2], unit[4]])
    torch.testing.assert_close(memory.keys, torch.nn.functional.normalize(sums, dim=1))


def test_keys_keep_their_length_over_many_averages():
    memory = Memory(9, 3)
    for _ in range(300):
        memory.write(torch.randn(9) + 2, torch.tensor(1))
    assert memory.keys[:1].norm().item() == pytest.approx(1, abs=1e-6)


def test_many_rows_in_one_slot_of_a_half_precision_memory_are_summed_in_full():
    memory = Memory(2, 4).bfloat16()
    memory.write(torch.ones(1, 2), torch.tensor([0]))
    # In bfloat16 a sum of ones stops at 256: the two directions would come out even.
    rows = torch.eye(2)[(torch.arange(3300) < 300).long()]
    recall = memory(rows[:1])._replace(queries=rows, slots=torch.zeros(3300, 1, dtype=torch.int64))
    memory.write(recall, torch.zeros(3300, dtype=torch.int64))
    expected = torch.nn.functional.normalize(torch.tensor([3000.0, 300.0]), dim=0)
    torch.testing.assert_close(memory.keys[0].float(), expected, atol=5e-3, rtol=0)


def test_a_row_that_cancels_the_key_leaves_it_as_it_is():
    memory = Memory(3, 4)
    memory.write(torch.tensor([[0.6, 0.8, 0.0]]), torch.tensor([5]))
    before = memory.keys.clone()
    recall = memory(memory.keys[:1], k=1)
    assert memory.write(recall._replace(queries=-before[:1]), torch.tensor([5])).slots.item() == 0
    assert torch.equal(memory.keys, before) and memory.ages[0] == 0
