"""The state as a whole: saved, loaded, copied, restored."""

import copy
import io
import pickle
import sys

import pytest
import safetensors.torch
import torch

from rarememory import AverageOrReplace, FirstInFirstOut, Memory
from tests.memories import LOOKUPS, bits, fresh, holding, lived, steps


def through_state_dict(memory: Memory) -> Memory:
    other = lived(fresh(), seed=9)
    other.load_state_dict(memory.state_dict())
    return other


def through_a_file(memory: Memory) -> Memory:
    file = io.BytesIO()
    torch.save(memory.state_dict(), file)
    file.seek(0)
    other = fresh()
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


def through_safetensors(memory: Memory) -> Memory:
    data = safetensors.torch.save(memory.state_dict())
    other = fresh()
    other.seed.fill_(99)
    other.load_state_dict(safetensors.torch.load(data))
    return other


def through_assignment(memory: Memory) -> Memory:
    other = fresh()
    state_dict = {name: buffer.clone() for name, buffer in memory.state_dict().items()}
    other.load_state_dict(state_dict, assign=True)
    return other


def through_a_snapshot(memory: Memory) -> Memory:
    with memory.snapshot():
        lived(memory, seed=4).resize(3)
    return memory


def through_double(memory: Memory) -> Memory:
    return memory.double().float()


ROUND_TRIPS = {
    "state_dict": through_state_dict,
    "torch.save": through_a_file,
    "safetensors": through_safetensors,
    "assign": through_assignment,
    "deepcopy": copy.deepcopy,
    "copy": lambda memory: copy.deepcopy(copy.copy(memory)),
    "pickle": lambda memory: pickle.loads(pickle.dumps(memory)),
    "to cpu": lambda memory: memory.to("cpu"),
    "to double and back": through_double,
    "snapshot": through_a_snapshot,
    "itself": lambda memory: memory,
}


@pytest.mark.parametrize("lookup", [*LOOKUPS, "auto"])
@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_a_run_interrupted_and_resumed_equals_the_uninterrupted_one_to_the_bit(name, lookup):
    whole = fresh(lookup=lookup)
    for step, (rows, labels) in enumerate(steps(12)):
        whole.write(rows, labels)
        if step % 4 == 3:
            whole.forget(labels=step)
    for interruption in (1, 6):
        run = fresh(lookup=lookup)
        for step, (rows, labels) in enumerate(steps(12)):
            if step == interruption:
                before = bits(run)
                run = ROUND_TRIPS[name](run)
                assert bits(run) == before
            run.write(rows, labels)
            if step % 4 == 3:
                run.forget(labels=step)
        assert bits(run) == bits(whole)
    queries = torch.randn(9, 7)
    for mine, theirs in zip(run(queries)[:4], whole(queries)[:4], strict=True):
        assert torch.equal(mine, theirs)


def test_a_copy_is_independent_and_keeps_its_options():
    memory = lived(fresh(update=FirstInFirstOut(), lookup="faiss", margin=0.3))
    for other in (copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):
        assert repr(other) == repr(memory) and other.update == memory.update
        before = bits(memory)
        other.clear()
        assert bits(memory) == before and len(other) == 0


def test_double_moves_the_keys_and_leaves_the_counters():
    memory = lived(fresh()).double()
    assert [buffer.dtype for buffer in memory.state] == [torch.float64] + [torch.int64] * 4
    recall = memory(torch.randn(3, 7))
    assert recall.scores.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_memory_in_half_precision_answers(dtype):
    memory = holding(torch.eye(7), list(range(7)), k=3, memory_size=9).to(dtype)
    queries = (torch.eye(7) + 0.1 * torch.rand(7, 7)).to(dtype)
    assert memory.keys.dtype == dtype
    assert memory(queries).prediction.tolist() == list(range(7))
    assert memory(queries, torch.arange(7)).loss.isfinite()
    assert memory.write(queries, torch.arange(7)).hits.all()
    assert memory.write(-queries[:1], torch.tensor([99])).slots.tolist() == [7]


# Snapshots and read-only


def test_a_snapshot_restores_everything_to_the_bit_even_after_an_error():
    memory = lived(fresh())
    before, pointers = bits(memory), [b.data_ptr() for b in memory.buffers()]
    with pytest.raises(KeyError), memory.snapshot():
        lived(memory, seed=4)
        memory.clear()
        raise KeyError
    assert bits(memory) == before
    assert pointers == [b.data_ptr() for b in memory.buffers()]


@pytest.mark.parametrize("memory_size", [1, 7, 33, 129])
def test_a_snapshot_restores_the_size_too(memory_size):
    memory = lived(fresh())
    before = bits(memory)
    with memory.snapshot():
        memory.resize(memory_size)
        memory.write(torch.randn(3, 7), torch.tensor([1, 2, 3]))
        with memory.snapshot():
            memory.resize(2)
        assert len(memory.values) == memory_size
    assert bits(memory) == before


def test_a_read_only_memory_answers_and_refuses_to_change():
    memory = lived(fresh())
    before = bits(memory)
    rows, labels = torch.randn(2, 7), torch.tensor([1, 2])
    with memory.read_only():
        assert memory(rows, labels).loss.isfinite()
        with memory.read_only():
            pass
        for change in (
            lambda: memory.write(rows, labels),
            lambda: memory.write(memory(rows), labels),
            lambda: memory.forget(labels=1),
            lambda: memory.clear(),
            lambda: memory.resize(3),
        ):
            with pytest.raises(RuntimeError, match="read-only"):
                change()
    assert bits(memory) == before
    memory.write(rows, labels)
    assert bits(memory) != before


# The projection


def test_the_projection_learns_and_is_saved_with_the_memory():
    torch.manual_seed(1)
    memory = Memory(8, 40, projection=True)
    rows, labels = torch.randn(40, 8), torch.arange(40) % 2
    optimiser = torch.optim.Adam(memory.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        memory.clear()
        memory.write(rows[:20], labels[:20])
        loss = memory(rows[20:], labels[20:]).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert "projection.weight" in memory.state_dict()


def test_the_projection_begins_as_the_authors_do():
    weight = Memory(64, 1, projection=True).projection.weight
    assert weight.shape == (64, 64) and weight.abs().max() <= 0.02
    assert 0.008 < weight.std() < 0.0095  # a normal of 0.01, cut at two deviations
    memory = Memory(3, 2, projection=True)
    with torch.no_grad():
        memory.projection.weight.copy_(torch.eye(3).roll(1, 0))
    assert memory(torch.tensor([1.0, 0, 0])).queries.tolist() == [0, 1, 0]
    assert memory.projection.bias is None
    assert Memory(3, 2).projection is None


def test_the_representation_says_what_it_is():
    text = repr(Memory(3, 5, k=2, lookup="torch"))
    assert text == (
        "Memory(key_dim=3, memory_size=5, k=2, margin=0.1, temperature=0.025, "
        "update=AverageOrReplace(age_noise=8.0), lookup='torch')"
    )


def test_the_defaults_are_the_papers():
    memory = Memory(2)
    assert (len(memory.values), memory.k) == (8192, 256)
    assert (memory.margin, memory.temperature) == (0.1, 0.025)
    assert memory.update == AverageOrReplace(8.0) and memory.lookup.name == "auto"
    assert memory.seed.item() == 0 and memory.validate and not memory.subtract_margin


@pytest.mark.parametrize("lacking", ["keys", "values", "written", "clock", "seed"])
@pytest.mark.parametrize("strict", [True, False])
def test_a_checkpoint_that_lacks_a_part_is_refused_and_nothing_is_loaded(lacking, strict):
    stored = Memory(3, 4)
    stored.write(torch.randn(3, 3), torch.arange(3))
    state = stored.state_dict()
    del state[lacking]
    mine = Memory(3, 4)
    before = bits(mine)
    with pytest.raises(RuntimeError, match=f"the checkpoint's memory has no {lacking}"):
        mine.load_state_dict(state, strict=strict)
    assert bits(mine) == before


def test_a_checkpoint_without_any_memory_may_be_loaded_where_nothing_has_to_fit():
    mine = Memory(3, 4)
    mine.write(torch.randn(3, 3), torch.arange(3))
    before = bits(mine)
    assert len(mine.load_state_dict({}, strict=False).missing_keys) == 5
    assert bits(mine) == before


def test_a_checkpoint_without_the_projection_is_refused_and_nothing_is_loaded():
    stored = Memory(3, 4)
    stored.write(torch.randn(3, 3), torch.arange(3))
    mine = Memory(3, 4, projection=True)
    before = bits(mine)
    with pytest.raises(RuntimeError, match="the checkpoint's memory has no projection"):
        mine.load_state_dict(stored.state_dict())
    assert bits(mine) == before


def test_a_copy_made_inside_read_only_can_be_written():
    memory = Memory(3, 4)
    with memory.read_only():
        copies = [copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))]
        with pytest.raises(RuntimeError, match="read-only here: load outside"):
            memory.load_state_dict(memory.state_dict())
    for one in [memory, *copies]:
        assert one.write(torch.randn(1, 3), torch.tensor([0])).slots.tolist() == [0]


def test_a_pickled_memory_answers_where_there_is_no_faiss(monkeypatch):
    memory = Memory(3, 4)
    memory.write(torch.eye(3), torch.arange(3))
    pickled = pickle.dumps(memory)
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert pickle.loads(pickled)(torch.eye(3)).prediction.tolist() == [0, 1, 2]


def test_an_empty_memory_is_true_like_any_module():
    assert Memory(2, 4)
