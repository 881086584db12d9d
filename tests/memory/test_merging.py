"""Merging: the youngest of both memories, by the oracle's loops, and what goes along with them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rarememory import (
    EMPTY,
    FirstInFirstOut,
    LeastUsed,
    MeanMemory,
    Memory,
    VectorMemory,
)
from rarememory.memory import PerClass
from tests.memories import LOOKUPS, bits
from tests.oracle import PaperMemory


def fifo(size: int, key_dim: int = 3, **options: object) -> Memory:
    return Memory(key_dim, size, update=FirstInFirstOut(), **options)


def lived_through(memory: Memory, oracle: PaperMemory, writes: int, forget: bool) -> None:
    for _ in range(writes):
        row, label = torch.randn(1, 3), torch.randint(0, 5, (1,))
        memory.write(row, label)
        oracle.write(row.tolist(), label.tolist(), average=False)
        if torch.rand(()) < 0.5:
            memory.record(memory(row, k=1))
            oracle.record(oracle.read(row.tolist()[0], 1).slots)
    if forget:
        memory.forget(labels=[1, 2])
        oracle.forget(labels=[1, 2])


@settings(max_examples=25)
@given(
    st.sampled_from(LOOKUPS),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 12),
    st.integers(0, 12),
    st.booleans(),
)
def test_the_youngest_of_both_are_kept(lookup, size, their_size, writes, their_writes, forget):
    torch.manual_seed(writes + 31 * their_writes)
    pairs = [
        (fifo(n, lookup=lookup, count_usage=True), PaperMemory(3, n)) for n in (size, their_size)
    ]
    for (memory, oracle), count in zip(pairs, (writes, their_writes), strict=True):
        lived_through(memory, oracle, count, forget)
    (memory, oracle), (other, their_oracle) = pairs
    before = bits(other)
    assert memory.merge(other).tolist() == oracle.merge(their_oracle)
    assert bits(other) == before
    assert memory.values.tolist() == oracle.values
    there = memory.values != EMPTY
    for mine, told in (
        (memory.ages, oracle.ages),
        (memory.usage.uses, oracle.uses),
        (memory.usage.used, oracle.used),
    ):
        assert mine[there].tolist() == [n for n, t in zip(told, there, strict=True) if t]
    assert memory.clock == oracle.clock and memory.usage.reads == oracle.reads
    for slot in there.nonzero().squeeze(1).tolist():
        assert memory.keys[slot].tolist() == pytest.approx(oracle.key(slot), abs=1e-6)
    # It goes on as the oracle does.
    lived_through(memory, oracle, 3, forget)
    assert memory.values.tolist() == oracle.values
    assert memory.usage.uses[memory.values != EMPTY].tolist() == [
        uses for uses, value in zip(oracle.uses, oracle.values, strict=True) if value != EMPTY
    ]


def test_each_way_round_the_same_rows_are_kept_and_ties_go_to_the_one_that_merges():
    def made(*labels: int) -> Memory:
        memory = fifo(3)
        for label in labels:
            memory.write(torch.randn(3), torch.tensor(label))
            memory.forget(labels=0)
        return memory

    # Ages 3, 1 and 2, 0; then twice the ages 2, 1, 0.
    for mine, theirs, one_way, other_way in (
        ((7, 0, 8, 0), (5, 0, 6), [5, 6, 8], [5, 6, 8]),
        ((1, 2, 3), (4, 5, 6), [2, 3, 6], [3, 5, 6]),
    ):
        pairs = [(made(*mine), made(*theirs)) for _ in range(2)]
        pairs[0][0].merge(pairs[0][1])
        pairs[1][1].merge(pairs[1][0])
        assert sorted(pairs[0][0].values.tolist()) == one_way
        assert sorted(pairs[1][1].values.tolist()) == other_way


def test_a_merge_in_a_draft_is_undone_to_the_bit():
    one, other = fifo(4), fifo(4)
    one.write(torch.eye(3), torch.tensor([7, 8, 9]))
    other.write(-torch.eye(3), torch.tensor([4, 5, 6]))
    before = bits(one)
    with one.draft() as draft:
        one.merge(other)
        one.write(torch.ones(3), torch.tensor(3))
    assert bits(one) == before
    assert draft.rows["values"].tolist() == [3, 4] and draft.slots.tolist() == [0, 3]


@pytest.mark.parametrize("lookup", [*LOOKUPS, "auto"])
def test_every_lookup_finds_what_was_taken_over(lookup):
    one, other = fifo(2000, 8, lookup=lookup), fifo(1500, 8)
    one.write(torch.randn(1200, 8), torch.arange(1200))
    queries = torch.randn(20, 8)
    for _ in range(2):
        one(queries, k=3)
    other.write(torch.randn(700, 8), torch.arange(2000, 2700))
    slots = one.merge(other)
    assert (one(other.keys[:700], k=1).slots[:, 0] == slots[:700]).all()


def test_values_and_usage_and_buffers_of_a_variant_go_along():
    one, other = (Memory(3, 4, update=LeastUsed()) for _ in range(2))
    one.write(torch.eye(3)[:2], torch.tensor([7, 8]))
    other.write(torch.eye(3)[2:], torch.tensor([0]))
    other.record(other(torch.eye(3)[2:]))
    other.record(other(-torch.eye(3)[2:]))
    slots = one.merge(other, values=torch.tensor([9, 9, 9, 9]))
    assert slots.tolist() == [2, EMPTY, EMPTY, EMPTY]
    assert one.values.tolist() == [7, 8, 9, EMPTY]
    assert one.usage.uses.tolist() == [0, 0, 2, 0] and one.usage.reads == 2
    assert one.usage.idle[:3].tolist() == [0, 0, 0]
    first, second = (VectorMemory(fifo(4), 2) for _ in range(2))
    second.write(torch.eye(3)[:1], torch.tensor([[5.0, 6.0]]))
    first.memory.merge(second.memory)
    assert first.vectors[0].tolist() == [5.0, 6.0]


def test_memories_that_do_not_fit_are_refused_and_nothing_is_changed():
    one = fifo(4)
    one.write(torch.eye(3), torch.tensor([7, 8, 9]))
    before = bits(one)
    refused = {
        r"keys have width \[3\] in this memory, and \[5\]": fifo(4, 5),
        "the other memory keeps lengths of each slot, and this one does not": MeanMemory(3, 4),
        "project queries differently": fifo(4, projection=True),
        "cannot be merged with itself": one,
        "merged with a Memory, not with a OrderedDict": one.state_dict(),
    }
    for message, other in refused.items():
        with pytest.raises(ValueError, match=message):
            one.merge(other)
    with pytest.raises(ValueError, match="this memory keeps lengths of each slot, and the other"):
        MeanMemory(3, 4).merge(one)
    with pytest.raises(ValueError, match=r"values of shape \[2\] for 4 slots"):
        one.merge(fifo(4), values=torch.tensor([1, 2]))
    other = fifo(4)
    other.write(torch.eye(3), torch.tensor([7, 8, 9]))
    for label, message in ((-2, r"values must be at least 0, .* \[1\]"), (EMPTY, r"slots \[1\]")):
        with pytest.raises(ValueError, match=message):
            one.merge(other, values=torch.tensor([7, label, 9, 5]))
    with one.read_only(), pytest.raises(RuntimeError, match="merge outside"):
        one.merge(fifo(4))
    assert bits(one) == before
    projected, alike = (fifo(4, projection=True) for _ in range(2))
    with pytest.raises(ValueError, match="project queries differently"):
        projected.merge(alike)
    alike.load_state_dict(projected.state_dict())
    assert projected.merge(alike).tolist() == [EMPTY] * 4


def test_a_slot_that_is_given_up_for_nothing_is_empty():
    one, other = Memory(2, 4, update=FirstInFirstOut()), Memory(2, 4)
    one.write(torch.eye(2)[[0, 0, 0]], torch.tensor([7, 7, 7]))
    other.write(torch.eye(2)[1], torch.tensor(9))
    one.update = PerClass(1)
    slots = one.merge(other)
    assert sorted(one.values.tolist()) == [EMPTY, EMPTY, 7, 9]
    assert one.values[slots[0]] == 9
    assert torch.equal(one.keys.any(1), one.values != EMPTY)


def test_a_row_that_is_part_of_one_given_up_is_nowhere():
    one, other = MeanMemory(2, 2), MeanMemory(2, 3)
    for label in (7, 8, 8):
        one.write(torch.eye(2)[0], torch.tensor(label))
    one.forget(labels=8)
    for label in (7, 9, 10):
        other.write(torch.eye(2)[1], torch.tensor(label))
    assert one.merge(other).tolist() == [EMPTY, 0, 1] and one.values.tolist() == [9, 10]
