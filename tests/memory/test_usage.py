"""Usage: counted when asked for, kept with the state, and what policies give slots up by."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rarememory import EMPTY, FirstInFirstOut, LeastRecentlyUsed, LeastUsed, Memory
from tests.memories import LOOKUPS, bits
from tests.oracle import PaperMemory

POLICIES = {"idle": LeastRecentlyUsed, "unused": LeastUsed}


def counting(memory_size: int = 4, **options: object) -> Memory:
    options = {"update": FirstInFirstOut(), "count_usage": True, **options}
    return Memory(3, memory_size, k=2, **options)


@settings(max_examples=20)
@given(
    st.sampled_from(LOOKUPS),
    st.sampled_from(sorted(POLICIES)),
    st.booleans(),
    st.lists(st.sampled_from(["read", "write", "write", "forget"]), max_size=25),
    st.integers(0, 10**6),
)
def test_policies_by_usage_do_what_the_loops_do(lookup, evict, average, verbs, seed):
    torch.manual_seed(seed)
    memory = Memory(4, 7, lookup=lookup, update=POLICIES[evict](average=average))
    oracle = PaperMemory(4, 7)
    for verb in ["write", *verbs]:
        rows, labels = torch.randn(3, 4), torch.randint(0, 4, (3,))
        if verb == "read":
            recall = memory(rows, k=1)
            memory.record(recall)
            oracle.record([oracle.read(row, 1).slots[0] for row in rows.tolist() if len(memory)])
        elif verb == "forget":
            assert memory.forget(labels=2) == oracle.forget(labels=[2])
        else:
            found = memory.write(rows, labels)
            told = oracle.write(rows.tolist(), labels.tolist(), average=average, evict=evict)
            assert found.slots.tolist() == [one.slot for one in told]
        assert memory.usage.uses.tolist() == oracle.uses
        there = [slot for slot in range(7) if oracle.values[slot] != EMPTY]
        assert memory.usage.used[there].tolist() == [oracle.used[slot] for slot in there]


def test_only_record_counts():
    memory = counting()
    memory.write(torch.eye(3), torch.tensor([7, 8, 9]))
    before = bits(memory)
    recall = memory(torch.eye(3)[[0, 0, 2]])
    assert bits(memory) == before
    memory.record(recall)
    assert memory.usage.uses.tolist() == [2, 0, 1, 0]
    assert memory.usage.idle[:3].tolist() == [0, 1, 0]


def test_queries_that_found_nothing_count_for_no_slot():
    memory = counting()
    memory.record(memory(torch.eye(3)))
    assert memory.usage.uses.tolist() == [0] * 4
    memory.write(torch.eye(3), torch.tensor([7, 8, 9]))
    memory.record(memory(torch.eye(3), mask=torch.tensor([False, True, False])))
    assert memory.usage.uses.tolist() == [0, 1, 0, 0]
    assert memory.usage.idle[:3].tolist() == [1, 0, 1]


def test_queries_of_any_shape_are_counted():
    memory = counting()
    memory.write(torch.eye(3), torch.tensor([7, 8, 9]))
    memory.record(memory(torch.eye(3).expand(2, 4, 3, 3)))
    memory.record(memory(torch.eye(3)[0]))
    memory.record(memory(torch.zeros(0, 3)))
    assert memory.usage.uses.tolist() == [9, 8, 8, 0] and memory.usage.reads == 3
    assert memory.usage.idle[:3].tolist() == [1, 2, 2]


def test_a_memory_that_does_not_count_says_how_to():
    memory = Memory(3, 4)
    assert memory.usage is None and "uses" not in memory.state_dict()
    with pytest.raises(ValueError, match="count_usage=True"):
        memory.record(memory(torch.eye(3)))


def test_recording_is_refused_in_a_read_only_block_and_for_another_memory():
    memory = counting()
    recall = memory(torch.eye(3))
    with memory.read_only(), pytest.raises(RuntimeError, match="record outside"):
        memory.record(recall)
    before = bits(memory)
    for slot in (4, 9):
        with pytest.raises(ValueError, match=f"slot {slot}, and this memory has 0 to 3"):
            memory.record(recall._replace(slots=torch.tensor([[slot]])))
    assert bits(memory) == before


def test_usage_follows_checkpoints_copies_snapshots_and_resizing():
    memory = counting(update=LeastUsed())
    memory.write(torch.eye(3), torch.tensor([7, 8, 9]))
    memory.record(memory(torch.eye(3)[[2, 2, 1]]))
    other = counting(update=LeastUsed())
    other.load_state_dict(memory.state_dict())
    assert bits(other) == bits(memory) == bits(copy.deepcopy(memory))
    before = bits(memory)
    with memory.snapshot():
        memory.record(memory(torch.eye(3)))
    assert bits(memory) == before
    memory.resize(9)
    assert memory.usage.uses.tolist() == [0, 1, 2] + [0] * 6
    smaller = counting(2, update=LeastUsed())
    smaller.load_state_dict(memory.state_dict())
    assert smaller.usage.reads == 1 and smaller.usage.uses.tolist() == [0, 1]


def test_a_slot_that_was_just_filled_counts_as_used():
    memory = counting(3, update=LeastRecentlyUsed(average=False))
    memory.write(torch.eye(3), torch.tensor([7, 8, 9]))
    memory.record(memory(torch.eye(3)[[0, 1]]))
    assert memory.write(-torch.eye(3)[0], torch.tensor(5)).overwritten == 9
    memory.record(memory(torch.eye(3)[[1]]))
    assert memory.write(-torch.eye(3)[1], torch.tensor(6)).overwritten == 7
