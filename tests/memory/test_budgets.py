"""Slots per class, protected classes, reservoirs and selections, by the loops of budget_oracle."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rarememory import (
    EMPTY,
    AverageOrReplace,
    ClosestToCentre,
    FirstInFirstOut,
    Herding,
    LeastRecentlyUsed,
    MeanMemory,
    Memory,
    PerClass,
    Protected,
    Reservoir,
)
from rarememory.distributed import gathered
from rarememory.distributed.policies import check_per_slot
from rarememory.memory.budgets import layers_of
from tests.budget_oracle import BudgetMemory, closest, herding
from tests.memories import LOOKUPS, bits

PAPER = AverageOrReplace(age_noise=0.0)
POLICIES = {
    "oldest": (PerClass(2), {"most": 2}),
    "averages": (PerClass(3, PAPER), {"most": 3, "average": True}),
    "herding": (PerClass(Herding(2)), {"most": 2, "select": herding}),
    "closest": (PerClass(ClosestToCentre(3)), {"most": 3, "select": closest}),
    "reservoir": (Reservoir(), {"reservoir": True}),
    "reservoir of each": (Reservoir(2), {"most": 2, "reservoir": True}),
    "protected": (Protected([0, 3], PAPER), {"average": True, "most": 99, "protected": (0, 3)}),
    "all": (Protected([1], PerClass(2)), {"most": 2, "protected": (1,)}),
}
EVERY = [policy for policy, _ in POLICIES.values()]


@settings(max_examples=60)
@given(
    st.sampled_from(LOOKUPS),
    st.sampled_from(sorted(POLICIES)),
    st.booleans(),
    st.lists(st.sampled_from(["write", "write", "write", "forget", "resume"]), max_size=12),
    st.integers(0, 10**6),
)
def test_every_policy_does_what_the_loops_do(lookup, name, half, verbs, seed):
    torch.manual_seed(seed)
    dtype = torch.float16 if half and lookup == "torch" else torch.float32
    policy, options = POLICIES[name]
    make = partial(Memory, 4, 11, lookup=lookup, update=policy, seed=seed, key_dtype=dtype)
    memory, oracle = make(), BudgetMemory(4, 11, seed=seed, **options)
    for verb in ["write", *verbs]:
        if verb == "forget":
            assert memory.forget(labels=2) == oracle.forget(labels=[2])
        elif verb == "resume":
            before, memory = memory, make()
            memory.load_state_dict(before.state_dict())
        else:
            rows, labels = torch.randn(5, 4), torch.randint(0, 4, (5,))
            try:
                told = oracle.replace(rows.tolist(), labels.tolist())
            except AssertionError:
                state = bits(memory)
                with pytest.raises(ValueError, match="may be given up"):
                    memory.write(rows, labels)
                assert bits(memory) == state
                return
            assert memory.write(rows, labels).slots.tolist() == told
        assert memory.values.tolist() == oracle.values
        assert memory.ages.tolist() == [
            a if v != EMPTY else EMPTY for a, v in zip(oracle.ages, oracle.values, strict=True)
        ]
        for slot in memory.state.occupied.nonzero().squeeze(1).tolist():
            assert memory.keys[slot].tolist() == pytest.approx(oracle.key(slot), abs=2e-3)
            oracle.keys[slot] = memory.keys[slot].tolist()


@pytest.mark.parametrize("policy", EVERY, ids=repr)
@pytest.mark.parametrize("lookup", LOOKUPS)
def test_a_batch_is_a_set_and_lookups_and_processes_agree_to_the_bit(lookup, policy):
    torch.manual_seed(1)
    mine, other = (Memory(9, 33, lookup=one, update=policy) for one in (lookup, "torch"))
    for _ in range(8):
        rows, labels, mask = torch.randn(7, 9), torch.randint(0, 6, (7,)), torch.rand(7) < 0.9
        order = torch.randperm(7)
        done = mine.write(rows[order], labels[order], mask=mask[order])
        told = other.write(*gathered(rows, labels, mask))
        assert done.slots[order.argsort()][mask].tolist() == told.slots.tolist()
        assert bits(mine) == bits(other) == bits(copy.deepcopy(mine))
        queries = torch.randn(5, 9)
        assert torch.equal(mine(queries, k=4).scores, other(queries, k=4).scores)
        with mine.snapshot(), mine.draft():
            mine.write(rows, labels)
        assert bits(mine) == bits(other)


@pytest.mark.parametrize(("slots", "rows"), [(1, 4), (4, 12)])
def test_a_reservoir_holds_each_row_as_likely_as_another(slots, rows):
    counts, seeds = torch.zeros(rows), 200
    for seed in range(seeds):
        memory = Memory(2, slots, update=Reservoir(), seed=seed * 7919)
        for part in torch.arange(rows).split(5):
            memory.write(torch.randn(len(part), 2), part)
        counts[memory.values] += 1
    # Binomial: within four standard deviations.
    p = slots / rows
    assert counts.sum() == slots * seeds
    assert (counts - p * seeds).abs().max() < 4 * (seeds * p * (1 - p)) ** 0.5


def test_of_two_examples_with_one_slot_the_first_stays_until_a_third_is_nearer():
    memory = Memory(2, 5, update=PerClass(Herding(1)))
    memory.write(torch.tensor([1.0, 0.0]), torch.tensor(7))
    assert memory.write(torch.tensor([0.0, 1.0]), torch.tensor(7)).slots == EMPTY
    assert memory.write(torch.tensor([0.7, 0.7]), torch.tensor(7)).slots == 0
    assert memory.class_sums[0].tolist() == pytest.approx([1.7071, 1.7071], abs=1e-3)


def test_what_a_class_may_have_is_counted_in_a_merge_and_protected_ones_are_kept():
    one, other = (Memory(2, 4, update=Protected([7], PerClass(2))) for _ in range(2))
    for memory, labels in ((one, [7, 7, 8, 9]), (other, [8, 8, 9, 5])):
        for label in labels:
            memory.write(torch.randn(2), torch.tensor(label))
    slots = one.merge(other)
    # The protected ones though they are the oldest, then the youngest of both: 9 and 5.
    assert one.values.tolist() == [7, 7, 5, 9] and slots.tolist() == [EMPTY, EMPTY, EMPTY, 2]
    assert one.resize(3).tolist() == [0, 1, 2] and one.resize(2).tolist() == [0, 1]
    with pytest.raises(ValueError, match="2 slots are of protected classes"):
        one.resize(1)
    full, more = (Memory(2, 9, update=PerClass(2)) for _ in range(2))
    for label in (3, 3, 4):
        full.write(torch.randn(2), torch.tensor(label))
        more.write(torch.randn(2), torch.tensor(3))
    full.merge(more)
    assert sorted(full.values[full.values >= 0].tolist()) == [3, 3, 4]


@pytest.mark.parametrize("policy", [Reservoir(), Reservoir(2), PerClass(Herding(2))], ids=repr)
def test_what_goes_by_rows_that_are_gone_is_not_merged(policy):
    one, other = (Memory(2, 4, update=policy) for _ in range(2))
    before = bits(one)
    with pytest.raises(ValueError, match="cannot be merged: learn what the other"):
        one.merge(other)
    assert bits(one) == before


def test_a_sample_of_a_whole_stream_has_one_size():
    memory = Memory(2, 4, update=Reservoir())
    with pytest.raises(ValueError, match="a sample in 4 slots cannot become one in 5"):
        memory.resize(5)
    with pytest.raises(RuntimeError, match="a sample in 4 slots cannot become one in 3"):
        Memory(2, 3, update=Reservoir()).load_state_dict(memory.state_dict())
    assert len(Memory(2, 4, update=Reservoir(2)).resize(9)) == 9


def test_a_budget_goes_by_usage_and_with_means_of_classes():
    memory = Memory(2, 9, update=PerClass(2, LeastRecentlyUsed(average=False)))
    memory.write(torch.eye(2), torch.tensor([7, 7]))
    slot = int(memory(torch.eye(2)[0]).slots[0])
    memory.record(memory(torch.eye(2)[0]))
    assert memory.write(-torch.ones(2), torch.tensor(7)).slots == 1 - slot
    means = MeanMemory(2, 3, update=Protected([1], PAPER))
    for label in (1, 2, 3, 4, 1):
        means.write(torch.randn(2), torch.tensor(label))
    assert means.values.tolist() == [1, 4, 3]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PerClass(0), "slots must be an integer of at least 1, not 0"),
        (lambda: PerClass(2, Protected([3])), "PerClass takes a policy such as FirstInFirstOut"),
        (lambda: PerClass(2, Reservoir()), "PerClass takes a policy"),
        (lambda: Reservoir(0), "per_class must be an integer of at least 1"),
        (lambda: Herding(0), "count must be"),
        (lambda: ClosestToCentre(0), "count must be"),
        (lambda: Protected([-1]), r"labels to protect must be integers >= 0, not \[-1\]"),
        (lambda: Protected([3], Protected([4])), r"Protected takes a policy such as PerClass\(2\)"),
        (lambda: Protected([3], Reservoir()), "a sample of the whole stream protects no class"),
    ],
)
def test_what_cannot_be_a_policy_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize("policy", EVERY, ids=repr)
def test_a_memory_in_shards_is_refused_what_looks_at_classes(policy):
    with pytest.raises(ValueError, match="looks at all slots of a class, and each process of a"):
        check_per_slot(policy)


def test_policies_are_values():
    assert PerClass(2) == PerClass(2, FirstInFirstOut()) != PerClass(Herding(2))
    assert {Protected([5, 3, 3]), Protected((3, 5))} == {Protected([3, 5])}
    assert layers_of(PAPER) == ((), None, PAPER)


@pytest.mark.parametrize("selection", [Herding(1), ClosestToCentre(1)])
def test_what_rounding_alone_makes_nearer_is_not_chosen(selection):
    cosines = torch.tensor([0.9 - 1e-9, 0.9, 0.5], dtype=torch.float64)
    rows = torch.stack([cosines, (1 - cosines.square()).sqrt()], dim=1)
    assert selection(rows, torch.tensor([1.0, 0.0])).tolist() == [0]


def test_rows_that_cancel_come_after_rows_that_have_a_mean():
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-0.6, -0.8]])
    assert Herding(3)(rows, torch.tensor([0.0, 1.0])).tolist() == [0, 2, 1]


def test_beside_a_selection_nothing_is_averaged_whatever_the_policy_inside():
    memory = Memory(2, 8, update=PerClass(Herding(2), AverageOrReplace()))
    for row in torch.tensor([[1.0, 0.0], [0.8, 0.6]]):
        write = memory.write(row, torch.tensor(7))
    assert write.hits and len(memory) == 2


def test_with_more_classes_than_room_a_reservoir_gives_up_the_oldest():
    memory = Memory(2, 3, update=Reservoir(1))
    for label in range(9):
        memory.write(torch.randn(2), torch.tensor(label))
        assert set(memory.values.tolist()) - {EMPTY} == set(range(max(0, label - 2), label + 1))
