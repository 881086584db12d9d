"""The rules of the memory, one after the other, each with its name on a test."""

import ast
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import rarememory
from rarememory import (
    EMPTY,
    AverageOrReplace,
    AverageOrReplaceRandom,
    FirstInFirstOut,
    Lookup,
    Memory,
)
from rarememory.memory.updates import slot_noise
from tests.memories import LOOKUPS, NewTensors, bits, holding

ODD = [1, 7, 33, 129]


def filled(key_dim: int = 7, memory_size: int = 33, rows: int = 20, **options) -> Memory:
    memory = Memory(key_dim, memory_size, **options)
    memory.write(torch.randn(rows, key_dim), torch.randint(0, 5, (rows,)))
    return memory


# 1. Reading never writes.


@pytest.mark.parametrize("lookup", [*LOOKUPS, "auto"])
@pytest.mark.parametrize("training", [True, False])
def test_reading_never_writes_nor_touches_any_random_state(unchecked, lookup, training):
    memory = filled(lookup=lookup, k=5).train(training)
    before, version = bits(memory), [buffer._version for buffer in memory.buffers()]
    queries, labels = torch.randn(9, 7, requires_grad=True), torch.randint(0, 5, (9,))
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    memory(queries)
    memory(queries, k=1)
    memory(queries, labels, k=40, mask=labels > 1)
    memory(queries, labels).loss.backward()
    assert bits(memory) == before
    assert [buffer._version for buffer in memory.buffers()] == version
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()


def test_reading_twice_gives_the_same_answer_to_the_bit():
    memory, queries = filled(k=9), torch.randn(33, 7)
    first, second = memory(queries), memory(queries)
    assert all(torch.equal(a, b) for a, b in zip(first[:4], second[:4], strict=True))


# 2. Everything the memory knows is a buffer, changed in place.


def test_everything_the_memory_knows_is_a_buffer_and_nothing_is_a_parameter():
    memory = filled()
    names = {"keys", "values", "written", "clock", "seed"}
    assert set(memory.state_dict()) == names == set(memory.state._fields)
    assert set(dict(memory.named_buffers())) == names
    assert list(memory.parameters()) == []
    tensors = {name for name, thing in vars(memory).items() if isinstance(thing, torch.Tensor)}
    assert tensors == set()
    assert vars(memory.lookup).get("index") is None


def test_buffers_are_changed_in_place_and_never_rebound():
    memory, other = filled(), filled(memory_size=12)
    buffers = dict(memory.named_buffers())
    places = {name: buffer.data_ptr() for name, buffer in buffers.items()}

    def same() -> bool:
        now = dict(memory.named_buffers())
        return all(now[name] is buffers[name] for name in now) and places == {
            name: buffer.data_ptr() for name, buffer in now.items()
        }

    memory.write(torch.randn(50, 7), torch.randint(0, 5, (50,)))
    assert same()
    memory.forget(labels=1)
    assert same()
    with memory.snapshot():
        memory.write(torch.randn(3, 7), torch.tensor([1, 2, 3]))
    assert same()
    memory.load_state_dict(other.state_dict())
    assert same()
    memory.clear()
    assert same()
    memory.resize(5)
    assert all(dict(memory.named_buffers())[name] is buffers[name] for name in buffers)


# 3. An empty slot answers nothing.


@pytest.mark.parametrize("lookup", [*LOOKUPS, "auto"])
@pytest.mark.parametrize("batch", [0, 1, 7])
def test_an_empty_memory_predicts_empty(lookup, batch):
    memory = Memory(4, 9, lookup=lookup, k=3)
    recall = memory(torch.randn(batch, 4))
    assert recall.slots.shape == recall.scores.shape == (batch, 3)
    assert recall.prediction.eq(EMPTY).all() and recall.confidence.eq(0).all()
    assert recall.slots.eq(EMPTY).all() and recall.values.eq(EMPTY).all()
    assert recall.scores.eq(-torch.inf).all() and recall.weights.eq(0).all()


@pytest.mark.parametrize("lookup", [*LOOKUPS, "auto"])
@pytest.mark.parametrize("k", ODD)
def test_an_empty_slot_is_never_a_neighbour_nor_positive_nor_negative(lookup, k):
    # All keys look away from the query, so the zero key of an empty slot would score higher.
    memory = holding(-torch.eye(3), [0, 1, 2], memory_size=129, lookup=lookup, k=k)
    memory.forget(slots=1)
    query = torch.ones(1, 3)
    recall = memory(query)
    assert recall.slots.shape == (1, min(k, 129))
    assert recall.slots[0, :2].tolist() == [0, 2][:k]
    assert recall.slots[0, 2:].eq(EMPTY).all()
    assert recall.weights.sum().item() == pytest.approx(1)
    pair = memory(query, torch.tensor([2]))
    assert sorted(pair.slots[0].tolist()) == [0, 2]
    missing = memory(query, torch.tensor([1]))
    assert missing.slots.tolist() == [[0, EMPTY]]
    assert missing.values.tolist() == [[0, EMPTY]]


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_a_memory_that_was_emptied_answers_nothing(lookup):
    memory = filled(lookup=lookup)
    memory.forget(labels=range(5))
    assert len(memory) == 0 and memory(torch.randn(3, 7)).prediction.eq(EMPTY).all()
    memory.write(torch.randn(1, 7), torch.tensor([9]))
    assert memory(torch.randn(3, 7)).prediction.tolist() == [9, 9, 9]
    memory.clear()
    assert memory(torch.randn(3, 7), torch.tensor([0, 1, 9])).loss.item() == 0


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_a_neighbour_that_is_not_there_has_no_value_even_in_a_full_memory(lookup):
    memory = holding(torch.eye(3), [5, 5, 5], lookup=lookup)
    recall = memory(torch.eye(3)[:1], torch.tensor([5]), mask=None)
    assert recall.slots.tolist() == [[0, EMPTY]] and recall.values.tolist() == [[5, EMPTY]]
    masked = memory(torch.eye(3), mask=torch.arange(3) > 0)
    assert masked.values.tolist()[0] == [EMPTY] * 3 and masked.prediction.tolist() == [EMPTY, 5, 5]


# 4. One order everywhere: higher score first, then lower slot.


@pytest.mark.parametrize("lookup", [*LOOKUPS, "auto"])
@pytest.mark.parametrize("k", ODD)
def test_of_equal_scores_the_lower_slot_comes_first(lookup, k):
    directions = torch.nn.functional.normalize(torch.randn(3, 7), dim=1)
    copies = torch.randint(0, 3, (129,))
    memory = holding(directions[copies], list(range(129)), lookup=lookup, k=k)
    recall = memory(directions + 0.01 * torch.randn(3, 7))
    for row in range(3):
        slots, scores = recall.slots[row].tolist(), recall.scores[row].tolist()
        in_order = sorted(zip(scores, slots, strict=True), key=lambda pair: (-pair[0], pair[1]))
        assert [slot for _, slot in in_order] == slots
        nearest = (copies == row).nonzero().squeeze(1).tolist()
        assert slots[: len(nearest)] == nearest[:k]


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_the_nearest_pair_prefers_the_lower_slot_too(lookup):
    memory = holding(torch.ones(9, 3), [4, 4, 2, 2, 4, 7, 7, 4, 2], lookup=lookup)
    pairs = memory(torch.ones(4, 3), torch.tensor([4, 2, 7, 5])).slots
    assert pairs.tolist() == [[0, 2], [0, 2], [0, 5], [0, EMPTY]]


def test_every_lookup_gives_the_same_answer_to_the_bit():
    keys, values = torch.randn(129, 7).repeat(2, 1), torch.randint(0, 5, (258,)).tolist()
    queries, labels = torch.cat([torch.randn(7, 7), keys[:26]]), torch.randint(0, 6, (33,))
    answers = []
    for lookup in [*LOOKUPS, "auto"]:
        memory = holding(keys, values, lookup=lookup, k=33)
        memory.forget(slots=range(3, 258, 7))
        answers.append([*memory(queries)[:3], *memory(queries, labels)[:3]])
    for other in answers[1:]:
        assert all(torch.equal(a, b) for a, b in zip(answers[0], other, strict=True))


# 5. A bad row never enters (tests/memory/test_bad_input.py has every kind of it).


def test_a_bad_row_never_enters_and_its_refusal_leaves_the_state_to_the_bit():
    memory = filled()
    before = bits(memory)
    rows = torch.randn(6, 7)
    rows[1, 3], rows[4] = torch.nan, 0.0
    with pytest.raises(ValueError, match=r"these rows are not: 1, 4 "):
        memory.write(rows, torch.zeros(6, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"these rows are not: 0 "):
        memory.write(torch.randn(2, 7), torch.tensor([-1, 0]))
    assert bits(memory) == before


@pytest.mark.parametrize("validate", [True, False])
def test_a_bad_row_that_is_masked_does_no_harm(validate):
    memory, clean = filled(validate=validate), filled()
    clean.load_state_dict(memory.state_dict())
    rows, labels = torch.randn(5, 7), torch.tensor([0, 1, -3, 2, 3])
    rows[1], rows[3, 0] = 0.0, torch.inf
    good = torch.tensor([True, False, False, False, True])
    # Without `validate` the bad rows are masked in silence.
    done = memory.write(rows, labels, mask=good if validate else None)
    clean.write(rows[good], labels[good])
    assert done.slots[~good].eq(EMPTY).all() and not done.hits[~good].any()
    torch.testing.assert_close(memory.state, clean.state)
    raw = rows.clone().requires_grad_()
    recall = memory(raw, labels, mask=good if validate else None)
    assert recall.loss.isfinite() and recall.prediction[~good].eq(EMPTY).all()
    recall.loss.backward()
    assert raw.grad.isfinite().all() and raw.grad[~good].eq(0).all()


# 6. A write is a set, not a sequence.


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize("batch", [2, 7, 33, 129])
@pytest.mark.parametrize(
    "update", [AverageOrReplace(), FirstInFirstOut(), AverageOrReplaceRandom()], ids=repr
)
def test_a_permuted_batch_leaves_the_same_memory_to_the_bit(lookup, batch, update):
    start = filled(key_dim=33, lookup=lookup, update=update)
    near = torch.randint(0, 6, (batch,))
    rows = start.keys[near] + 0.1 * torch.randn(batch, 33)
    # Most rows hit, and many of them the same slot: the rounding of their sum depends on its order.
    labels = start.values[near].where(torch.rand(batch) < 0.8, torch.randint(0, 5, (batch,)))
    mask = torch.rand(batch) < 0.9
    results = []
    for order in [torch.arange(batch), *(torch.randperm(batch) for _ in range(3))]:
        memory = filled(key_dim=33, lookup=lookup, update=update)
        memory.load_state_dict(start.state_dict())
        done = memory.write(rows[order], labels[order], mask=mask[order])
        back = order.argsort()
        results.append((bits(memory), [part[back].tolist() for part in done]))
    assert all(result == results[0] for result in results[1:])


@pytest.mark.parametrize("count", [2, 7, 33])
def test_rows_that_hit_one_slot_are_summed_into_it_before_normalising(count):
    memory = holding(torch.tensor([[3.0, 4.0], [-1.0, 0.0]]), [5, 6])
    angles = torch.linspace(0.2, 1.4, count)
    rows = torch.stack([angles.cos(), angles.sin()], 1) * torch.rand(count, 1).add(0.1)
    done = memory.write(rows, torch.full((count,), 5))
    assert done.slots.eq(0).all() and done.hits.all() and done.overwritten.eq(EMPTY).all()
    total = torch.nn.functional.normalize(rows, dim=1).sum(0) + torch.tensor([0.6, 0.8])
    torch.testing.assert_close(memory.keys[0], total / total.norm())
    assert memory.keys[1].tolist() == [-1, 0] and memory.ages.tolist() == [0, 1]


def test_rows_that_cancel_the_key_leave_it_as_it_was():
    memory = holding(torch.tensor([[1.0, 0.0]]), [5])
    memory.write(torch.tensor([[-2.0, 0.0]]), torch.tensor([5]))
    assert memory.keys.tolist() == [[1, 0]] and memory.ages.tolist() == [0]


def test_misses_take_the_oldest_slots_each_its_own():
    memory = Memory(8, 8, update=AverageOrReplace(age_noise=0.0))
    for slot in [3, 0, 6, 1, 7, 2, 5, 4]:
        memory.write(torch.eye(8)[slot], torch.tensor(slot))
    # Slot i was written i-th.
    assert memory.ages.tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    done = memory.write(-torch.eye(8)[:3], torch.tensor([90, 91, 92]))
    assert done.slots.tolist() == [0, 1, 2] and done.overwritten.tolist() == [3, 0, 6]
    assert not done.hits.any()
    assert memory.ages.tolist() == [0, 0, 0, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_a_slot_just_hit_is_never_the_one_replaced(lookup):
    update = AverageOrReplace(age_noise=0.0)
    memory = holding(torch.eye(3), [0, 1, 2], lookup=lookup, update=update)
    memory.write(torch.eye(3)[1:], torch.tensor([1, 2]))
    # Slot 0 is the oldest of all, and is hit.
    done = memory.write(torch.tensor([[1.0, 0, 0], [0.0, 1, 0.9]]), torch.tensor([0, 9]))
    assert done.slots.tolist() == [0, 1] and done.hits.tolist() == [True, False]
    assert memory.values.tolist() == [0, 9, 2]


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize(("memory_size", "batch"), [(1, 7), (7, 33), (3, 129)])
def test_more_misses_than_slots_are_consecutive_writes(lookup, memory_size, batch):
    memory = Memory(9, memory_size, lookup=lookup, update=AverageOrReplace(age_noise=0.0))
    rows, labels = torch.randn(batch, 9), torch.arange(batch)
    done = memory.write(rows, labels)
    assert memory.clock.item() == -(-batch // memory_size)
    assert sorted(done.slots.tolist()) == sorted(i % memory_size for i in range(batch))
    assert memory.ages.max() <= 1
    # The rows go in the order of their labels, so these are the last.
    assert set(memory.values.tolist()) >= set(range(batch - batch % memory_size, batch))
    lost = set(range(batch)) - set(memory.values.tolist())
    assert set(done.overwritten.tolist()) - {EMPTY} == lost


def test_a_batch_may_be_thousands_of_times_the_memory():
    memory = Memory(2, 1)
    memory.write(torch.randn(1500, 2), torch.arange(1500))
    assert memory.clock.item() == 1500 and memory.values.tolist() == [1499]


def test_all_ages_grow_by_one_a_write_and_written_slots_get_0():
    memory = holding(torch.eye(4), [0, 1, 2, 3], memory_size=6)
    memory.write(torch.eye(4)[1:3], torch.tensor([1, 2]))
    assert memory.ages.tolist() == [1, 0, 0, 1, EMPTY, EMPTY]
    memory.write(-torch.eye(4)[1], torch.tensor(9))
    assert memory.ages.tolist() == [2, 1, 1, 2, 0, EMPTY]


def test_a_write_of_no_row_is_no_write():
    memory = filled()
    before = bits(memory)
    memory.write(torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64))
    memory.write(torch.randn(3, 7), torch.tensor([0, 1, 2]), mask=torch.zeros(3, dtype=bool))
    memory.write(memory(torch.randn(0, 7)), torch.zeros(0, dtype=torch.int64))
    assert bits(memory) == before


# 7. Own randomness.


def full(seed: int, age_noise: float = 8.0, memory_size: int = 33) -> Memory:
    memory = Memory(64, memory_size, seed=seed, update=AverageOrReplace(age_noise))
    memory.write(torch.randn(memory_size, 64), torch.arange(memory_size))
    return memory


def test_writing_leaves_every_global_generator_alone(unchecked):
    memory = full(seed=3)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    rows, labels = torch.ones(5, 64).cumsum(0).cos(), torch.arange(100, 105)
    memory.write(rows, labels)
    memory.write(memory(rows), labels + 9)
    memory.forget(labels=100)
    memory.resize(7)
    memory.clear()
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()


def victims(seed: int, global_seed: int) -> list[int]:
    torch.manual_seed(1)
    memory = full(seed)
    rows = torch.randn(40, 64)
    torch.manual_seed(global_seed)
    return [
        int(memory.write(row, torch.tensor(100 + i)).slots) for i, row in enumerate(rows.split(1))
        for row in [row[0]]
    ]  # fmt: skip


def test_the_same_seed_gives_the_same_memory_whatever_the_global_one():
    assert victims(seed=5, global_seed=1) == victims(seed=5, global_seed=2)


def test_another_seed_gives_up_other_slots():
    assert len({tuple(victims(seed, global_seed=0)) for seed in range(8)}) == 8


def test_the_noise_of_the_ages_is_uniform_in_minus_8_to_8():
    noises = []

    class Listens(AverageOrReplace):
        def eviction(self, ages, noise):
            noises.append(super().eviction(ages, noise) - ages)
            return ages

    memory = full(seed=1, memory_size=129)
    memory.update = Listens()
    for label in range(100):
        memory.write(torch.randn(64), torch.tensor(1000 + label))
    noise = torch.cat(noises)
    assert -8 <= noise.min() < -7.99 and 7.99 < noise.max() < 8
    assert abs(noise.mean()) < 0.16 and abs(noise.var() / (16**2 / 12) - 1) < 0.03
    assert len(set(noise.tolist())) == len(noise) == 12900
    counts = noise.histc(16, -8, 8) / len(noise)
    assert (counts - 1 / 16).abs().max() < 0.01


def test_the_noise_decides_between_slots_8_writes_apart_and_no_further():
    update = AverageOrReplace()
    memory = Memory(64, 100, update=update)
    for label, row in enumerate(torch.randn(100, 64)):
        memory.write(row, torch.tensor(label))
    slots = [
        int(memory.write(row, torch.tensor(1000 + i)).slots)
        for i, row in enumerate(torch.randn(60, 64))
    ]
    late = [slot - i for i, slot in enumerate(slots)]
    assert max(late) <= 16 and min(late) >= -16 and len(set(late)) > 5


# 8. A backend returns slots, nothing else.


class Backwards(Lookup):
    """Returns all slots, worst first, and knows no score."""

    name = "backwards"

    def nearest(self, queries, keys, occupied, k):
        assert not queries.requires_grad and not torch.is_grad_enabled()
        order = (queries @ keys.T).masked_fill(~occupied, -9).argsort(1, descending=True)[:, :k]
        return order.masked_fill(~occupied[order], EMPTY).flip(1)


@pytest.mark.parametrize("k", ODD)
def test_the_memory_scores_and_orders_what_a_lookup_returns(k):
    mine, theirs = filled(k=k, lookup=Backwards()), filled(k=k, lookup="torch")
    theirs.load_state_dict(mine.state_dict())
    raw = torch.randn(9, 7)
    for a, b in zip(mine(raw)[:4], theirs(raw)[:4], strict=True):
        assert torch.equal(a, b)
    queries = raw.clone().requires_grad_()
    mine(queries).scores[:, 0].sum().backward()
    assert queries.grad.abs().sum() > 0


def test_a_lookup_may_find_fewer_than_k():
    class FindsTwo(Backwards):
        def nearest(self, queries, keys, occupied, k):
            return super().nearest(queries, keys, occupied, min(k, 2))

    recall = filled(k=9, lookup=FindsTwo())(torch.randn(3, 7))
    assert recall.slots.shape == (3, 9) and recall.slots[:, 2:].eq(EMPTY).all()
    assert recall.slots[:, :2].ne(EMPTY).all()


def test_a_row_for_which_a_lookup_finds_nothing_misses():
    class FindsNothing(Backwards):
        def nearest(self, queries, keys, occupied, k):
            return torch.zeros(len(queries), 0, dtype=torch.int64)

    memory = holding(torch.eye(3), [4, 5, 6], lookup=FindsNothing())
    assert memory(torch.eye(3)).prediction.eq(EMPTY).all()
    done = memory.write(torch.eye(3)[2], torch.tensor(6))
    assert not done.hits.item() and done.overwritten.item() in (4, 5, 6)


# 9. Labels are integers >= 0.


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_labels_are_integers_of_any_width_from_0_on(dtype):
    memory = Memory(3, 4)
    memory.write(torch.eye(3), torch.tensor([0, 1, 127], dtype=dtype))
    assert memory(torch.eye(3)).prediction.tolist() == [0, 1, 127]
    assert memory.values.dtype == torch.int64
    assert memory(torch.eye(3), torch.tensor([0, 1, 127], dtype=dtype)).loss.item() == 0


# 10. The cost of a write grows with the batch, not with the memory.


def test_a_write_whose_rows_all_hit_makes_nothing_as_large_as_the_memory():
    memory = holding(torch.randn(5000, 8), list(range(5000)))
    rows = memory.keys[:16].clone()
    recall, labels = memory(rows), torch.arange(16)
    with NewTensors(*memory.buffers()) as new:
        done = memory.write(recall, labels)
    assert done.hits.all() and 16 <= new.largest < 1000


@pytest.mark.usefixtures("torch_only")
def test_a_write_of_misses_looks_at_every_slot_but_at_no_key():
    memory = holding(torch.randn(5000, 8), list(range(5000)))
    recall = memory(torch.randn(16, 8))
    with NewTensors(*memory.buffers()) as new:
        memory.write(recall, torch.arange(9000, 9016))
    assert 5000 <= new.largest <= 5001
    assert all(5000 not in shape or len(shape) == 1 for shape in new.shapes)


# 11. Optional packages are imported in the one file that needs them.


def importers(package: str) -> set[str]:
    root = Path(rarememory.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            if package in {name.split(".")[0] for name in names}:
                found.add(path.relative_to(root).as_posix())
    return found


def test_faiss_is_imported_in_one_file():
    # tests/test_layers.py sees to it that `import rarememory` brings no optional package.
    assert importers("faiss") == {"lookup/package.py"}


def test_the_noise_of_a_write_is_that_of_its_seed_and_clock():
    memory = full(seed=11)
    clock = memory.clock.clone()
    noise = slot_noise(memory.seed, clock, 33)
    done = memory.write(torch.randn(64), torch.tensor(77))
    assert int(done.slots) == int(noise.argmax())  # all ages were 0
