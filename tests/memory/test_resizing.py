"""A memory of another size: loaded into, resized."""

import pytest
import torch

from rarememory import EMPTY, AverageOrReplace, FirstInFirstOut, Memory, MemoryState
from tests.memories import LOOKUPS, bits, fresh, holding, lived


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("update", [AverageOrReplace(), FirstInFirstOut()], ids=repr)
def test_a_larger_memory_loads_every_slot_where_it_was(nested, update):
    small, large = lived(fresh(7)), lived(fresh(33), seed=5)
    small.forget(slots=[2])
    if nested:
        theirs, mine = torch.nn.ModuleList([small]), torch.nn.ModuleList([large])
        mine.load_state_dict(theirs.state_dict())
    else:
        large.load_state_dict(small.state_dict())
    for mine, theirs in zip(large.state[:3], small.state[:3], strict=True):
        assert torch.equal(mine[:7], theirs)
    assert large.values[7:].eq(EMPTY).all() and large.keys[7:].eq(0).all()
    assert large.written[7:].eq(0).all() and large.clock == small.clock
    queries = torch.randn(5, 7)
    assert torch.equal(large(queries).slots, small(queries).slots)


def test_a_smaller_memory_loads_the_youngest_slots_in_their_order():
    large, small = lived(fresh(33)), fresh(7)
    state_dict = large.state_dict()
    small.load_state_dict(state_dict)
    kept = sorted(range(33), key=lambda slot: (large.ages[slot] % 2**63, slot))
    kept = [slot for slot in kept if large.values[slot] != EMPTY]
    kept = torch.tensor(sorted(kept[:7]))
    assert torch.equal(small.keys, large.keys[kept])
    assert torch.equal(small.values, large.values[kept])
    assert torch.equal(small.ages, large.ages[kept]) and small.clock == large.clock
    # What was loaded is left as it was.
    assert state_dict["keys"].shape == (33, 7)


@pytest.mark.parametrize("memory_size", [33, 5])
def test_keys_of_another_width_are_refused_and_nothing_is_loaded(memory_size):
    memory, other = lived(fresh()), Memory(6, memory_size)
    before = bits(memory)
    with pytest.raises(RuntimeError, match="keys have width 6, and this memory's 7"):
        memory.load_state_dict(other.state_dict())
    assert bits(memory) == before


@pytest.mark.parametrize("memory_size", [1, 7, 33, 129])
def test_a_resize_returns_the_old_slot_of_every_new_one(memory_size):
    memory = lived(fresh())
    memory.forget(slots=[0, 4, 31])
    old = MemoryState(*(buffer.clone() for buffer in memory.state))
    slots = memory.resize(memory_size)
    assert len(memory.values) == len(memory.keys) == len(memory.written) == memory_size
    there = slots != EMPTY
    assert torch.equal(there, memory.values != EMPTY)
    assert torch.equal(memory.keys[there], old.keys[slots[there]])
    assert torch.equal(memory.values[there], old.values[slots[there]])
    assert torch.equal(memory.ages[there], old.ages[slots[there]])
    assert memory.keys[~there].eq(0).all() and memory.written[~there].eq(0).all()
    assert len(memory) == min(memory_size, int(old.occupied.sum()))
    if memory_size >= 33:
        assert slots[there].tolist() == there.nonzero().squeeze(1).tolist()
    else:
        assert slots[there].tolist() == sorted(slots[there].tolist())
        assert slots[: len(memory)].ne(EMPTY).all()
        left = old.occupied.clone()
        left[slots[there]] = False
        assert not left.any() or memory.ages.max() <= old.ages[left].min()


def test_of_equal_ages_a_smaller_memory_keeps_the_lower_slots():
    memory = holding(torch.randn(9, 7), list(range(9)))
    assert memory.resize(4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("lookup", [*LOOKUPS, "auto"])
def test_a_memory_that_was_read_grows(lookup):
    # NumPy forbids torch to resize what it looks at, and Faiss looks through NumPy.
    memory = lived(fresh(5, lookup=lookup))
    memory(torch.randn(3, 7))
    memory.resize(33)
    memory.write(torch.randn(20, 7), torch.arange(20))
    assert memory(torch.randn(3, 7)).slots.shape == (3, 5) and len(memory) > 5
