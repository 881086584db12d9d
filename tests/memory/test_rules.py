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
    Lookup,
    Memory,
)
from tests.memories import LOOKUPS, bits, holding

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


# 6 and 10 are in test_rules_of_writing.py, 7 in test_own_randomness.py.
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


def test_labels_are_sparse_and_their_number_is_unknown():
    memory = Memory(8, 8)
    labels = torch.tensor([2**62, 3, 10**12, 2**63 - 1, 0])
    memory.write(torch.eye(8)[:5], labels)
    assert torch.equal(memory(torch.eye(8)[:5]).prediction, labels)
    assert memory(torch.eye(8)[:5], labels).loss.item() == 0
    assert memory.forget(labels=2**62) == 1


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
