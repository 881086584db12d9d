"""Writes in C++: what torch writes, and which slots are given up."""

import pytest
import torch

from rarememory import (
    EMPTY,
    AverageOrReplace,
    AverageOrReplaceRandom,
    FirstInFirstOut,
    Lookup,
    Memory,
    Write,
    native,
)
from rarememory.memory import at_once, writing
from tests.lookup.test_nearest import units
from tests.memories import bits


def test_it_writes_what_torch_writes_to_the_bit(monkeypatch):
    def history() -> Memory:
        torch.manual_seed(7)
        memory = Memory(6, 40, seed=3, lookup="torch", update=AverageOrReplace(age_noise=3.0))
        for turn in range(300):
            rows = torch.randn(1 + turn % 50, 6).round(decimals=turn % 3)
            rows[rows.norm(dim=1) == 0] = 1.0
            labels = torch.randint(0, 12, (len(rows),))
            mask = torch.rand(len(rows)) < 0.8 if turn % 4 else None
            writes.append(memory.write(rows, labels, mask=mask))
            if turn % 20 == 0:
                memory.forget(labels=turn % 12)
        return memory

    writes: list[Write] = []
    from_cpp, count = bits(history()), len(writes)
    monkeypatch.setattr(native, "is_supported", lambda *tensors: False)
    assert bits(history()) == from_cpp
    for one, other in zip(writes[:count], writes[count:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_gradient_kept_across_a_write_is_refused_as_torch_refuses_it():
    memory = Memory(3, 4)
    memory.write(units(2, 3), torch.arange(2))
    queries = units(2, 3).requires_grad_()
    product = (queries @ memory.keys.T).sum()
    memory.write(units(2, 3), torch.arange(2))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def evicting(policy):
    return lambda self, ages, noise: policy.eviction(ages, noise)


class YoungestFirst(AverageOrReplace):
    @property
    def weights(self):
        return -1.0, self.age_noise


@pytest.mark.parametrize(("spread", "holes"), [(90, 30), (10**6, 0), (10**6, 3)])
def test_slots_are_evicted_block_by_block_as_all_at_once(spread, holes, monkeypatch):
    monkeypatch.setitem(at_once.AVERAGES, YoungestFirst, True)
    state = Memory(1, 1000, seed=5).state
    # Ages far apart, so that most blocks have no slot that is old enough.
    state.written.copy_(torch.randint(0, spread, (1000,)))
    state.values.copy_(torch.randint(30, (1000,)))
    state.values[torch.randint(1000, (holes,))] = EMPTY
    state.clock.fill_(spread + 10)
    keep = torch.randint(-1, 1000, (40,))
    policies = AverageOrReplace(), FirstInFirstOut(), AverageOrReplaceRandom(), YoungestFirst()
    for policy in policies:
        for count in (1, 16, 500, 1000):
            whole = writing.eviction_order(state, policy, count, keep)
            with monkeypatch.context() as small:
                small.setattr(writing, "_SLOTS_AT_ONCE", 37)
                # By its own name a policy goes one way, and under another name the other.
                renamed = type("Renamed", (type(policy),), {"eviction": evicting(policy)})()
                assert torch.equal(writing.eviction_order(state, renamed, count, keep), whole)
                assert torch.equal(writing.eviction_order(state, policy, count, keep), whole)
                small.setattr(native, "is_supported", lambda *tensors: False)
                assert torch.equal(writing.eviction_order(state, policy, count, keep), whole)


def test_keys_that_are_not_contiguous_are_written_by_torch():
    wide, memory, twin = torch.zeros(40, 12), Memory(6, 40), Memory(6, 40)
    state = memory.state_dict()
    memory.load_state_dict({**state, "keys": wide[:, :6]}, assign=True)
    for _ in range(3):
        rows, labels = units(9, 6), torch.randint(0, 4, (9,))
        for one in (memory, twin):
            one.write(rows, labels)
        assert torch.equal(memory(rows).slots, twin(rows).slots)
    assert bits(memory) == bits(twin) and wide[:, 6:].eq(0).all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("slot", [-2, 40, 2**31 - 1])
def test_a_slot_that_does_not_exist_is_refused(slot):
    class Wrong(Lookup):
        name = "wrong"

        def nearest(self, queries, keys, occupied, k):
            return torch.full((len(queries), 1), slot, dtype=torch.int32)

    memory = Memory(6, 40, lookup=Wrong())
    before = bits(memory)
    for call in (lambda: memory(units(2, 6)), lambda: memory.write(units(2, 6), torch.arange(2))):
        with pytest.raises(ValueError, match=f"the lookup 'wrong' names slot {slot}"):
            call()
    recall = Memory(6, 40)(units(2, 6))
    with pytest.raises(ValueError, match=f"the recall names slot {slot}"):
        memory.write(recall._replace(slots=torch.full((2, 1), slot)), torch.arange(2))
    assert bits(memory) == before


@pytest.mark.usefixtures("unchecked", "engine")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_policy_may_return_other_types(dtype):
    class Other(AverageOrReplace):
        def averages(self, hits):
            return hits.to(torch.uint8)

        def eviction(self, ages, noise):
            return ages.to(dtype).repeat_interleave(2)[::2]

    class Same(AverageOrReplace):
        def eviction(self, ages, noise):
            return ages

    other, same = Memory(6, 40, update=Other()), Memory(6, 40, update=Same())
    for _ in range(5):
        rows, labels = torch.randn(30, 6), torch.randint(0, 4, (30,))
        for memory in (other, same):
            memory.write(rows, labels)
    assert bits(other) == bits(same)


@pytest.mark.usefixtures("engine")
def test_infinite_weights_of_a_policy_leave_a_slot_for_every_row():
    class Infinite(AverageOrReplace):
        @property
        def weights(self) -> tuple[float, float]:
            return float("inf"), 0.0

    memory = Memory(6, 5, update=Infinite())
    assert memory.write(units(12, 6), torch.arange(12)).slots.ne(EMPTY).all()


def test_no_slots_may_be_asked_for():
    memory = Memory(6, 40)
    for rows in (0, 9):
        memory.write(units(rows, 6), torch.arange(rows))
        assert writing.eviction_order(memory.state, memory.update, 0).shape == (0,)


def test_many_rows_are_inserted_as_few_are(monkeypatch):
    def written() -> Memory:
        torch.manual_seed(1)
        memory = Memory(4, 3000, seed=2)
        for start in (0, 2500, 9000):
            memory.write(torch.randn(2500, 4), torch.arange(2500) + start)
        return memory

    whole = bits(written())
    monkeypatch.setattr(writing, "_FEW", 10**6)
    assert bits(written()) == whole


def test_a_row_spoilt_after_its_recall_is_not_written():
    memory = Memory(6, 40)
    recall = memory(units(3, 6))
    spoilt = recall.queries.clone()
    spoilt[1, 2] = torch.nan
    slots = memory.write(recall._replace(queries=spoilt), torch.arange(3)).slots
    assert slots[1] == EMPTY and memory.keys.isfinite().all() and len(memory) == 2
