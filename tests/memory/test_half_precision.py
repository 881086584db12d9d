"""Keys in half precision: a float16 copy that is always in step, and keys that are half."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rarememory import Lookup, Memory
from rarememory.classifier.memory_settings import empty_memory, memory_settings
from rarememory.memory.half_precision import HalfPrecisionCopy
from tests.lookup.test_nearest import units
from tests.memories import bits


def in_step(memory: Memory) -> bool:
    return torch.equal(memory.half_precision_copy.of(memory.keys), memory.keys.half())


def written(memory: Memory, times: int = 3) -> Memory:
    for _ in range(times):
        memory.write(units(5, 6), torch.randint(0, 7, (5,)))
    return memory


def loaded(memory: Memory, size: int) -> None:
    memory.load_state_dict(written(Memory(6, size)).state_dict())


CHANGES = {
    "write": lambda memory: written(memory, 1),
    "write one": lambda memory: memory.write(units(1, 6), torch.tensor([1])),
    "write more than fit": lambda memory: memory.write(units(30, 6), torch.arange(30)),
    "write a masked row": lambda memory: memory.write(
        units(2, 6), torch.arange(2), mask=torch.tensor([False, True])
    ),
    "forget": lambda memory: memory.forget(labels=[0, 1, 2]),
    "clear": lambda memory: memory.clear(),
    "load": lambda memory: loaded(memory, 12),
    "load another size": lambda memory: loaded(memory, 20),
    "load tensors themselves": lambda memory: memory.load_state_dict(
        written(Memory(6, 12)).state_dict(), assign=True
    ),
    "shrink": lambda memory: memory.resize(9),
    "grow": lambda memory: memory.resize(12),
    "change the keys": lambda memory: memory.keys[3].neg_(),
}


@settings(max_examples=40)
@given(st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=8))
def test_the_half_precision_copy_is_in_step_whatever_happens_to_the_keys(changes):
    memory = written(Memory(6, 12, half_precision_copy=True))
    for change in changes:
        CHANGES[change](memory)
        assert in_step(memory), change
        with memory.snapshot():
            CHANGES[change](memory)
            assert in_step(memory), change
        assert in_step(memory), change


def test_a_write_copies_its_own_rows_and_no_others(monkeypatch):
    memory = written(Memory(6, 12, half_precision_copy=True))
    memory.half_precision_copy.keys[0] = 7.0
    memory.values[0], memory.written[0] = 5, memory.clock
    slots = memory.write(units(1, 6), torch.tensor([99])).slots
    assert 0 not in slots and memory.half_precision_copy.of(memory.keys)[0].eq(7).all()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_has_a_half_precision_copy_of_its_own(copied):
    memory = written(Memory(6, 12, half_precision_copy=True))
    twin = copied(memory)
    twin.keys[2].neg_()
    assert in_step(memory) and in_step(twin)
    assert twin.half_precision_copy.keys.data_ptr() != memory.half_precision_copy.keys.data_ptr()


@pytest.mark.parametrize("to", ["half", "double", "bfloat16"])
def test_the_half_precision_copy_stays_float16_where_the_keys_go(to):
    memory = written(Memory(6, 12, half_precision_copy=True))
    getattr(memory, to)()
    assert memory.half_precision_copy.keys.dtype == torch.float16 and in_step(memory)


def test_in_inference_mode_the_half_precision_copy_is_made_anew():
    with torch.inference_mode():
        memory = written(Memory(6, 12, half_precision_copy=True))
        memory.keys[2].neg_()
        assert in_step(memory)


def test_a_half_precision_copy_made_in_inference_mode_is_made_again_outside():
    memory = written(Memory(6, 12, half_precision_copy=True))
    memory.keys[2].neg_()
    with torch.inference_mode():
        assert in_step(memory)
        memory.resize(14)
        assert in_step(memory)
    written(memory)
    assert in_step(memory)


def test_an_edit_by_hand_before_a_write_is_seen():
    memory = written(Memory(6, 12, half_precision_copy=True))
    memory.keys[3].neg_()
    memory.write(units(1, 6), torch.tensor([99]))
    assert in_step(memory)


def test_another_tensor_in_the_place_of_the_keys_is_seen():
    keys, other = units(3, 4), units(3, 4)
    copy = HalfPrecisionCopy(keys)
    assert keys._version == other._version
    assert torch.equal(copy.of(other), other.half())


def test_the_half_precision_copy_is_not_saved_and_changes_no_answer():
    plain, copied = (
        written(Memory(6, 12, half_precision_copy=enabled), 0) for enabled in (False, True)
    )
    for memory in (plain, copied):
        torch.manual_seed(4)
        written(memory, 9)
    assert bits(plain) == bits(copied)
    queries = units(9, 6)
    for mine, theirs in zip(plain(queries)[:4], copied(queries)[:4], strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("reads", [False, True])
def test_a_lookup_gets_the_half_precision_copy_if_it_reads_it(reads):
    class Watching(Lookup):
        name = "watching"
        reads_half_keys = reads
        seen: list[object]

        def nearest(self, queries, keys, occupied, k, **more):
            self.seen = list(more)
            return torch.zeros(len(queries), 1, dtype=torch.int64)

        def nearest_pair(self, queries, keys, values, labels, **more):
            self.seen = list(more)
            return torch.zeros_like(labels), torch.zeros_like(labels)

    watching = Watching()
    memory = Memory(6, 12, lookup=watching, half_precision_copy=True)
    for call in (lambda: memory(units(2, 6)), lambda: memory(units(2, 6), torch.arange(2))):
        call()
        assert watching.seen == (["half_keys"] if reads else [])


@pytest.mark.parametrize("lookup", ["torch", "auto"])
@pytest.mark.parametrize(("dtype", "off"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
def test_keys_in_half_precision_put_scores_off_by_no_more_than_is_said(lookup, dtype, off):
    torch.manual_seed(2)
    whole = Memory(32, 200, k=7, lookup=lookup)
    half = Memory(32, 200, k=7, lookup=lookup, key_dtype=dtype)
    rows, labels = units(150, 32), torch.randint(0, 20, (150,))
    for memory in (whole, half):
        memory.write(rows, labels)
    assert half.keys.dtype == dtype
    queries = units(40, 32).requires_grad_()
    found = half(queries)
    assert found.scores.dtype == torch.float32
    exact = (queries.detach() @ whole.keys.T).gather(1, found.slots)
    assert (found.scores - exact).abs().max() < off
    best = (queries.detach() @ half.keys.float().T).topk(7).values
    torch.testing.assert_close(found.scores.detach(), best)
    recall = half(queries, torch.randint(0, 20, (40,)))
    recall.loss.backward()
    assert queries.grad.isfinite().all()


def test_a_key_dtype_that_is_no_float_is_refused():
    with pytest.raises(ValueError, match=r"key_dtype must be torch\.float32"):
        Memory(6, 12, key_dtype=torch.int8)


def test_the_old_keyword_works_with_a_warning():
    with pytest.warns(DeprecationWarning, match=r"Memory\(shadow=\) is now"):
        assert Memory(6, 12, shadow=True).half_precision_copy is not None


def test_settings_saved_under_the_old_name_load():
    settings = memory_settings(Memory(6, 12, half_precision_copy=True))
    settings["memory"]["shadow"] = settings["memory"].pop("half_precision_copy")
    assert empty_memory(settings, {}, None, "torch").half_precision_copy is not None


def test_wide_buffers_of_few_bits_stay_as_they_are_and_old_pickles_have_none() -> None:
    memory = Memory(4, 8)
    memory.register_slot_buffer("seen", fill=False, dtype=torch.bool, wide=True)
    memory.register_slot_buffer("few", fill=0, dtype=torch.float16, wide=True)
    memory.register_slot_buffer("prices", fill=1e5, wide=True)
    memory.half()
    found = [memory.get_buffer(name).dtype for name in ("seen", "few", "prices")]
    assert found == [torch.bool, torch.float16, torch.float32]
    # One that was pickled by a version without them.
    del memory.__dict__["_wide"]
    assert memory.double().get_buffer("prices").dtype == torch.float64
