"""The state as a whole: saved, loaded, copied, resized, restored; and queries of any shape."""

import copy
import io
import pickle
import sys

import pytest
import safetensors.torch
import torch

from rarememory import EMPTY, AverageOrReplace, FirstInFirstOut, Lookup, Memory, MemoryState
from tests.memories import LOOKUPS, NewTensors, bits, holding

ODD = [1, 7, 33, 129]


def fresh(memory_size: int = 33, **options) -> Memory:
    return Memory(7, memory_size, k=5, seed=3, **options)


def steps(count: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        batch = int(torch.randint(1, 60, (), generator=generator))
        rows = torch.randn(batch, 7, generator=generator)
        yield rows, torch.randint(0, 9, (batch,), generator=generator)


def lived(memory: Memory, count: int = 6, seed: int = 0) -> Memory:
    for rows, labels in steps(count, seed):
        memory.write(rows, labels)
        memory.forget(labels=8)
    return memory


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


# Another capacity


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


@pytest.mark.parametrize("memory_size", ODD)
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


# Resizing and forgetting


@pytest.mark.parametrize("memory_size", ODD)
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


def aged() -> Memory:
    """Slots 0 to 4 with labels 0 1 0 1 2 and ages 4 3 2 1 0, slot 5 empty."""
    memory = Memory(5, 6, update=FirstInFirstOut())
    for row, label in zip(torch.eye(5), [0, 1, 0, 1, 2], strict=True):
        memory.write(row, torch.tensor(label))
    assert memory.ages.tolist() == [4, 3, 2, 1, 0, EMPTY]
    return memory


@pytest.mark.parametrize(
    ("conditions", "gone"),
    [
        ({"labels": 1}, {1, 3}),
        ({"labels": [0, 2]}, {0, 2, 4}),
        ({"labels": torch.tensor(2)}, {4}),
        ({"labels": torch.tensor([[0], [1]], dtype=torch.int8)}, {0, 1, 2, 3}),
        ({"labels": {7, 8}}, set()),
        ({"labels": []}, set()),
        ({"labels": EMPTY}, set()),
        ({"slots": 5}, set()),
        ({"slots": (1, 1, 5, 4)}, {1, 4}),
        ({"slots": range(6)}, {0, 1, 2, 3, 4}),
        ({"older_than": 2}, {0, 1}),
        ({"older_than": 0}, {0, 1, 2, 3}),
        ({"older_than": -1}, {0, 1, 2, 3, 4}),
        ({"older_than": -5}, {0, 1, 2, 3, 4}),
        ({"older_than": 4}, set()),
        ({"labels": 0, "older_than": 2}, {0}),
        ({"labels": 0, "slots": [1, 2, 3]}, {2}),
        ({"slots": [0, 1, 4], "older_than": 3}, {0}),
        ({"labels": [0, 1], "slots": [0, 1, 4], "older_than": 2}, {0, 1}),
    ],
)
def test_what_meets_every_condition_is_forgotten_and_nothing_else(conditions, gone):
    memory, whole = aged(), aged()
    assert memory.forget(**conditions) == len(gone)
    for slot in range(5):
        if slot in gone:
            assert memory.values[slot] == EMPTY == memory.ages[slot]
            assert memory.keys[slot].eq(0).all() and memory.written[slot] == 0
        else:
            for mine, theirs in zip(memory.state[:3], whole.state[:3], strict=True):
                assert torch.equal(mine[slot], theirs[slot])
    assert memory.clock == whole.clock == 5 and len(memory) == 5 - len(gone)
    assert bool(memory)


def test_the_age_of_a_slot_forgotten_and_written_again_starts_anew():
    memory = aged()
    memory.forget(slots=0)
    memory.write(-torch.eye(5)[0], torch.tensor(9))
    assert memory.ages.tolist() == [0, 4, 3, 2, 1, EMPTY]


def test_a_cleared_memory_is_empty_and_its_clock_goes_on():
    memory = lived(fresh())
    clock = memory.clock.item()
    memory.clear()
    assert len(memory) == 0 and memory.ages.eq(EMPTY).all() and memory.clock.item() == clock
    assert memory.keys.eq(0).all() and memory.written.eq(0).all()


# Queries of any shape and type


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (7,), (2, 3), (2, 0), (3, 1, 2)])
def test_queries_have_any_leading_shape(lookup, shape):
    memory, flat_memory = lived(fresh(lookup=lookup)), lived(fresh(lookup=lookup))
    queries, labels = torch.randn(*shape, 7), torch.randint(0, 9, shape)
    mask = torch.rand(shape) < 0.7
    flat, flat_labels, flat_mask = queries.view(-1, 7), labels.view(-1), mask.view(-1)
    for arguments, flat_arguments, k in [
        ((queries,), (flat,), 5),
        ((queries, labels), (flat, flat_labels), 2),
    ]:
        recall = memory(*arguments, mask=mask)
        flat_recall = memory(*flat_arguments, mask=flat_mask)
        assert recall.slots.shape == recall.scores.shape == recall.weights.shape == (*shape, k)
        assert recall.values.shape == (*shape, k) and recall.queries.shape == (*shape, 7)
        assert recall.prediction.shape == recall.confidence.shape == shape
        for name in ("slots", "scores", "values", "queries", "weights"):
            part, flat_part = getattr(recall, name), getattr(flat_recall, name)
            assert torch.equal(part.reshape(flat_part.shape), flat_part)
    assert torch.equal(recall.loss, flat_recall.loss)
    done, flat_done = memory.write(recall, labels), flat_memory.write(flat_recall, flat_labels)
    for part, flat_part in zip(done, flat_done, strict=True):
        assert part.shape == shape and torch.equal(part.view(-1), flat_part)
    assert bits(memory) == bits(flat_memory)
    done = memory.write(queries, labels, mask=mask)
    assert done.slots.shape == shape and done.slots[~mask].eq(EMPTY).all()


@pytest.mark.parametrize("lookup", [*LOOKUPS, "auto"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("projection", [False, True])
def test_queries_of_any_float_type_are_normalised_in_full_precision(lookup, dtype, projection):
    memory = lived(fresh(lookup=lookup, projection=projection))
    queries, labels = torch.randn(33, 7).to(dtype).requires_grad_(), torch.randint(0, 9, (33,))
    wide = queries.detach().float()
    recall, truth = memory(queries, labels), memory(wide, labels)
    assert recall.scores.dtype == recall.queries.dtype == torch.float32
    torch.testing.assert_close(recall.queries, truth.queries, rtol=0, atol=2e-7)
    torch.testing.assert_close(recall.scores, truth.scores, rtol=0, atol=1e-6)
    recall.loss.backward()
    assert queries.grad.dtype == dtype and queries.grad.isfinite().all()
    assert memory.write(queries, labels).slots.shape == (33,)


def test_queries_that_are_not_contiguous_are_read_and_written():
    memory, queries = lived(fresh()), torch.randn(7, 9)
    recall = memory(queries.T)
    assert torch.equal(recall.slots, memory(queries.T.contiguous()).slots)
    labels = torch.randint(0, 9, (9, 2))[:, 0]
    assert memory.write(queries.T, labels).slots.shape == (9,)
    expanded = torch.randn(1, 7).expand(5, 7)
    assert memory.write(expanded, torch.ones(5, dtype=torch.int64)).slots.shape == (5,)


@pytest.mark.parametrize("lookup", [*LOOKUPS, "auto"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_answer_is_the_same(lookup, dtype):
    memory, twin = lived(fresh(lookup=lookup)), lived(fresh(lookup=lookup))
    queries, labels = torch.randn(33, 7), torch.randint(0, 9, (33,))
    truth, learnt = memory(queries), memory(queries, labels)
    with torch.autocast("cpu", dtype=dtype):
        for mine, theirs in zip(memory(queries)[:4], truth[:4], strict=True):
            assert torch.equal(mine, theirs)
        assert torch.equal(memory(queries, labels).loss, learnt.loss)
        memory.write(queries, labels)
    twin.write(queries, labels)
    assert bits(memory) == bits(twin)


def test_under_autocast_an_encoders_half_precision_queries_are_normalised_in_float32():
    memory, encoder = lived(fresh()), torch.nn.Linear(3, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        queries = encoder(torch.randn(33, 3))
        recall = memory(queries, torch.randint(0, 9, (33,)))
    assert queries.dtype == torch.bfloat16 and recall.queries.dtype == torch.float32
    assert (recall.queries.norm(dim=1) - 1).abs().max() < 1e-6
    recall.loss.backward()
    assert encoder.weight.grad.isfinite().all() and encoder.weight.grad.abs().sum() > 0


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


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize("k", [None, 1, 3])
def test_padding_of_zeros_costs_no_more_than_other_rows(lookup, k):
    memory = holding(torch.randn(500, 8), list(range(500)), lookup=lookup)
    queries, mask = torch.randn(6, 8), torch.arange(6) < 3
    queries[3:] = 0
    with NewTensors(memory.keys) as new:
        recall = memory(queries, torch.arange(6) if k is None else None, k=k, mask=mask)
    assert new.largest <= 6 * 500
    assert recall.prediction[3:].tolist() == [EMPTY] * 3


def test_what_a_read_left_out_a_write_of_its_recall_leaves_out_too():
    memory = Memory(4, 8)
    memory.write(torch.eye(4)[:2], torch.tensor([0, 1]))
    recall = memory(torch.eye(4)[:3], mask=torch.tensor([True, False, True]))
    write = memory.write(recall, torch.tensor([0, 1, 2]))
    assert write.slots.tolist() == [0, EMPTY, 2] and memory.ages.tolist()[:3] == [0, 1, 0]


class Careless(Lookup):
    """A search that answers whatever it is asked, even what is not a number."""

    name = "careless"

    def nearest(self, queries, keys, occupied, k):
        return torch.zeros(len(queries), 1, dtype=torch.int64)

    def nearest_pair(self, queries, keys, values, labels):
        return torch.zeros_like(labels), torch.ones_like(labels)


@pytest.mark.parametrize("labels", [None, torch.arange(3)])
def test_a_masked_row_finds_nothing_by_whatever_search(labels):
    memory = holding(torch.eye(3), [0, 1, 2], lookup=Careless())
    recall = memory(torch.ones(3, 3), labels, mask=torch.tensor([True, False, True]))
    assert (recall.slots != EMPTY).any(1).tolist() == [True, False, True]
    write = memory.write(torch.ones(2, 3), torch.tensor([0, 0]), mask=torch.tensor([False, True]))
    assert write.hits.tolist() == [False, True]
