"""Stored states that no memory has are refused, and the memory stays as it was."""

import pytest
import torch

from rarememory import MeanMemory, Memory
from rarememory.memory.invariants import check_fits, check_state
from rarememory.variants import BatchedMemory, VectorMemory
from tests.memories import SPOILT, bits

pytestmark = pytest.mark.usefixtures("unchecked")

EYE = torch.eye(4)


def used(kind=Memory, **options):
    memory = kind(4, 6, **options)
    memory.write(EYE, torch.tensor([3, 5, 7, 9]))
    memory.forget(labels=5)
    return memory


def spoilt(name, place, value):
    def spoil(state):
        state[name] = state[name].clone()
        state[name][place] = value

    return spoil


def replaced(name, change):
    def replace(state):
        state[name] = change(state[name])

    return replace


BROKEN = {
    "a key with NaN": (spoilt("keys", (2, 1), torch.nan), "keys must be finite"),
    "an infinite key": (spoilt("keys", (2, 1), torch.inf), "keys must be finite"),
    "a long key": (spoilt("keys", 2, 0.6), r"of length 1; those of slots \[2\] are not"),
    "a key of no length": (spoilt("keys", 0, 0.0), r"of length 1; those of slots \[0\] are not"),
    "a key without a value": (spoilt("keys", 1, 0.5), r"zero; those of slots \[1\] are not"),
    "a tiny key without a value": (spoilt("keys", 5, 1e-40), r"zero; those of slots \[5\]"),
    "a value without a key": (spoilt("values", 1, 5), r"length 1; those of slots \[1\]"),
    "a value below -1": (spoilt("values", 1, -2), r"at least 0, or -1 .* slots \[1\]"),
    "written after the last write": (spoilt("written", 0, 2), r"from 0 to 1, .* slots \[0\]"),
    "written before the first": (spoilt("written", 0, -1), r"from 0 to 1, .* slots \[0\]"),
    "a clock that ran back": (spoilt("clock", (), 0), r"from 0 to 0, .* slots \[0, 2, 3\]"),
    "a clock below 0": (spoilt("clock", (), -1), "the clock must be from 0 to 2.62, not -1"),
    "a clock at its end": (spoilt("clock", (), 2**62), "the clock must be from 0 to 2.62"),
    "values of floats": (replaced("values", torch.Tensor.float), "values must be int64, not"),
    "a clock of bytes": (replaced("clock", torch.Tensor.byte), "clock must be int64"),
    "keys of integers": (replaced("keys", torch.Tensor.long), "keys must be of a float type"),
    "sparse keys": (replaced("keys", torch.Tensor.to_sparse), "keys must be a dense tensor"),
    "no tensor": (replaced("seed", int), "seed must be a dense tensor"),
    "too few values": (replaced("values", lambda v: v[:3]), r"shape \[6, 4\], which does not fit"),
    "a row of clocks": (replaced("clock", lambda c: c.view(1)), r"shape \[1\], which does not fit"),
}


@pytest.mark.parametrize(("spoil", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_state_is_refused_and_nothing_is_loaded(spoil, said):
    state = used().state_dict()
    spoil(state)
    with pytest.raises(ValueError, match=said):
        check_state(state)
    memory = used()
    before = bits(memory)
    with pytest.raises(RuntimeError, match=said):
        memory.load_state_dict(state)
    assert bits(memory) == before


@pytest.mark.parametrize("memory_size", [3, 6, 9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_state_that_a_memory_has_is_taken(dtype, memory_size):
    memory = Memory(512, 6)
    memory.write(torch.randn(6, 512), torch.arange(6))
    state = memory.to(dtype).float().state_dict()
    other = Memory(512, memory_size)
    other.load_state_dict(state)
    assert len(other) == min(6, memory_size)


@pytest.mark.parametrize("slot", [0, 1, 5])
@pytest.mark.parametrize("length", [-1.0, 0.0, 2.0])
def test_lengths_of_means_are_of_slots_that_hold_something(slot, length):
    state = used(MeanMemory).state_dict()
    spoilt("lengths", slot, length)(state)
    if (slot == 0) == (length > 0):
        MeanMemory(4, 6).load_state_dict(state)
        return
    with pytest.raises(RuntimeError, match="lengths must be positive, and 0 where a slot is empty"):
        MeanMemory(4, 6).load_state_dict(state)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("uses", -1, r"uses must be at least 0; those of slots \[2\] are not"),
        ("used", 3, r"used must be from 0 to 1, the last read; those of slots \[2\] are not"),
        ("used", -1, "used must be from 0 to 1"),
    ],
)
def test_nothing_was_used_less_than_never_or_after_the_last_read(name, value, said):
    memory = used(count_usage=True)
    memory.record(memory(EYE))
    state = memory.state_dict()
    memory.load_state_dict(state)
    spoilt(name, 2, value)(state)
    with pytest.raises(RuntimeError, match=said):
        memory.load_state_dict(state)
    state = {**state, name: state[name].int()}
    with pytest.raises(RuntimeError, match=f"{name} must be int64"):
        memory.load_state_dict(state)


def test_a_projection_must_be_finite():
    state = used(projection=True).state_dict()
    spoilt("projection.weight", (0, 0), torch.inf)(state)
    with pytest.raises(RuntimeError, match=r"projection\.weight must be finite"):
        used(projection=True).load_state_dict(state)


@pytest.mark.parametrize("name, memory", [("projection.weight", Memory), ("lengths", MeanMemory)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_a_part_of_another_kind_of_number_is_refused(name, memory, dtype):
    own = used(memory, **({"projection": True} if memory is Memory else {}))
    state = own.state_dict()
    state[name] = state[name].to(dtype)
    with pytest.raises(RuntimeError, match=f"{name} must be like torch.float32, not {dtype}"):
        own.load_state_dict(state)


def test_a_state_without_numbers_is_not_checked():
    check_state({name: part.to("meta") for name, part in used().state_dict().items()})


def test_a_tensor_of_another_shape_cannot_be_copied():
    own = {"keys": torch.zeros(2, 3), "values": torch.zeros(2)}
    check_fits(own, {"keys": torch.ones(2, 3)})
    with pytest.raises(ValueError, match=r"keys must be \[2, 3\], not \[2, 4\]"):
        check_fits(own, {"keys": torch.ones(2, 4)})


def with_vectors(fill):
    vectors = VectorMemory(Memory(4, 6), width=2)
    vectors.write(EYE, EYE[:, :2], torch.tensor([3, 5, 7, 9]))
    return vectors if fill is used else vectors.clear() or vectors


KINDS = {
    "plain": lambda fill: fill(Memory),
    "projecting": lambda fill: fill(Memory, projection=True),
    "means": lambda fill: fill(MeanMemory),
    "vectors": with_vectors,
    "several": lambda fill: BatchedMemory([fill(Memory), fill(Memory)]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_checkpoint_is_taken_whole_or_not_at_all(kind, spoil):
    state = KINDS[kind](used).state_dict()
    for name in state:
        memory = KINDS[kind](lambda kind, **options: kind(4, 6, **options))
        before = bits(memory)
        with pytest.raises(RuntimeError, match=r"^Error\(s\) in loading state_dict"):
            memory.load_state_dict({**state, name: spoil(state[name])})
        assert bits(memory) == before
