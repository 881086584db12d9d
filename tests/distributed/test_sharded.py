"""A memory in shards says and remembers, to the bit, what one memory would."""

import copy

import pytest
import shards
import torch
from shards import HISTORIES, PROCESSES

from rarememory import Memory
from rarememory.distributed import shard
from rarememory.variants import MeanMemory, VectorMemory

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch is built without gloo",
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """What each process says when it has done its work."""
    folder = tmp_path_factory.mktemp("shards")
    torch.multiprocessing.spawn(shards.work, args=(str(folder),), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(PROCESSES)]


@pytest.mark.parametrize(("world", "case"), HISTORIES)
def test_shards_answer_and_remember_as_one_memory(done, world, case):
    for one in done[:world]:
        assert one[f"{world} {case}"] == []


def test_a_checkpoint_of_four_shards_answers_alike_in_any_number_and_in_a_memory(done):
    for one in done:
        assert one["loaded"] and all(one["loaded"].values()), one["loaded"]
    assert {"1 processes", "3 processes", "a Memory"} <= done[0]["loaded"].keys()


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp"])
def test_wrappers_train_beside_the_shards_and_leave_them_alone(done, wrapper):
    parts = [one[wrapper] for one in done]
    for part in parts:
        assert torch.equal(part["weight"], parts[0]["weight"])
        assert part["buffers"] == {"memory.clock", "memory.seed", "memory.reads"}
        assert part["shapes"]["memory.keys"] == [33, 7]
        assert part["parts"]["clock"] == parts[0]["parts"]["clock"] > 0
    held = [len(part["parts"]["keys"]) for part in parts]
    assert held == [9, 9, 9, 6]
    assert not torch.equal(parts[0]["parts"]["values"], parts[1]["parts"]["values"])
    values = torch.cat([part["parts"]["values"] for part in parts])
    keys = torch.cat([part["parts"]["keys"] for part in parts])
    assert (values >= 0).sum() > 8
    assert torch.equal(keys.norm(dim=1) > 0.99, values >= 0)


def test_what_fails_on_one_process_is_raised_by_all_and_none_waits(done):
    own, others = done[1]["refused"], [one["refused"] for one in (done[0], *done[2:])]
    for name, (text, _) in own["said"].items():
        for other in others:
            assert "Error" in text and "Error" in other["said"][name][0], (name, text)
    said = [seconds for one in done for _, seconds in one["refused"]["said"].values()]
    assert max(said) < 60
    assert "MemoryError: no room" in own["said"]["search"][0]
    assert others[0]["said"]["search"][0].startswith("RuntimeError: process 1 could not do its")
    assert others[0]["said"]["queries"][0].startswith("ValueError: process 1 could not do its")
    assert "all processes must do the same" in own["said"]["another verb"][0]
    assert "load a checkpoint by torch.distributed" in own["said"]["broadcast"][0]
    assert "may not be sharded" in own["said"]["classifier"][0]
    assert "must be made alike" in own["said"]["made differently"][0]
    for one in done:
        assert one["refused"]["kept"] and one["refused"]["rows"] == 12


class OldestOfThese:
    """A policy whose answer for a slot depends on the others."""

    def averages(self, hits):
        return hits

    def eviction(self, ages, noise):
        return (ages == ages.max()).double()


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (MeanMemory(2, 5), "a MeanMemory cannot be sharded: give a Memory"),
        (VectorMemory(Memory(2, 5), 3).memory, "the memory of a VectorMemory cannot be sharded"),
        (Memory(2, 5, update=OldestOfThese()), "OldestOfThese.eviction looks at several slots"),
    ],
)
def test_what_cannot_be_sharded_is_refused_in_a_sentence(memory, message):
    with pytest.raises(ValueError, match=message):
        shard(memory)


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (copy.deepcopy, "copied or pickled: save its state_dict"),
        (lambda memory: memory.merge(Memory(2, 5)), "merged: merge memories before"),
        (lambda memory: memory.draft().__enter__(), "kept in a store"),
        (lambda memory: memory.put_state({}), "kept in a store"),
        (lambda memory: memory.put_slots(None, {}, None), "kept in a store"),
        (lambda memory: memory.register_slot_buffer("prices"), "given prices for each slot"),
    ],
)
def test_what_a_sharded_memory_does_not_do_is_refused_in_a_sentence(work, message):
    memory = shard(Memory(2, 5))
    with pytest.raises(ValueError, match=f"a sharded memory cannot be {message}"):
        work(memory)


def test_a_program_of_one_process_shards_too():
    one, memory = Memory(2, 5, seed=3), Memory(2, 5, device="meta", seed=3)
    assert memory.keys.is_meta and memory.seed == 3
    assert shard(memory) is memory and memory.keys.is_cpu
    for each in (one, memory):
        each.write(torch.eye(2), torch.tensor([7, 9]))
    assert torch.equal(memory.keys, one.keys)
    assert "slots 0 to 4 here" in repr(memory)
    memory.to(torch.float64)
    one.to(torch.float64).load_state_dict(memory.state_dict())
    assert memory.keys.dtype == torch.float64 and len(memory) == len(one) == 2


def test_a_refused_checkpoint_changes_nothing():
    memory = shard(Memory(2, 5, projection=True))
    memory.write(torch.eye(2), torch.tensor([7, 9]))
    before = copy.deepcopy(memory.state_dict())
    other = Memory(2, 5, projection=True).state_dict()
    del other["clock"]
    with pytest.raises(RuntimeError, match="the checkpoint's memory has no clock"):
        memory.load_state_dict(other)
    for name, part in memory.state_dict().items():
        assert torch.equal(part, before[name]), name
