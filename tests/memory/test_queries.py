"""Queries of any shape and type, masked or not."""

import pytest
import torch

from rarememory import EMPTY, Lookup, Memory
from tests.memories import LOOKUPS, NewTensors, bits, fresh, holding, lived


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
