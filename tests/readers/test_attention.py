"""Soft and hard reads, in one hop and in several."""

import pytest
import torch

from rarememory import Memory
from rarememory.readers.attention import (
    MultiHopReader,
    attention_weights,
    hard_read,
    multi_hop_read,
    soft_read,
)
from tests.reader_oracle import dot, softmax


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_soft_read_is_the_weighted_sum_of_the_loops_with_gradients():
    queries, keys, values = (
        drawn(*shape, seed=seed).requires_grad_()
        for seed, shape in enumerate([(2, 3, 4), (2, 5, 4), (2, 5, 2)])
    )
    mask = torch.ones(2, 3, 5, dtype=torch.bool)
    mask[0, :, 3:] = False
    found = soft_read(queries, keys, values, mask, temperature=0.5)
    weights = attention_weights(queries, keys, mask, temperature=0.5)
    total = torch.zeros((), dtype=torch.float64)
    for story in range(2):
        held = 3 if story == 0 else 5
        for row in range(3):
            x = list(queries[story, row])
            c = softmax([dot(x, list(keys[story, i])) / 0.5 for i in range(held)])
            s = [dot(c, [values[story, i, j] for i in range(held)]) for j in range(2)]
            torch.testing.assert_close(found[story, row], torch.stack(s))
            torch.testing.assert_close(weights[story, row, :held], torch.stack(c))
            total = total + s[0] + 2 * s[1]
    mine = torch.autograd.grad((found * torch.tensor([1.0, 2.0])).sum(), (queries, keys, values))
    expected = torch.autograd.grad(total, (queries, keys, values))
    for one, other in zip(mine, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_several_hops_over_plain_tensors_are_those_of_the_loops_with_gradients():
    tensors = [
        drawn(*shape, seed=seed).requires_grad_()
        for seed, shape in enumerate([(3, 4), (5, 4), (5, 4)])
    ]
    queries, keys, values = tensors
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, 2:] = False
    found = multi_hop_read(queries, keys, values, mask, 0.5, hops=3)
    total = torch.zeros((), dtype=torch.float64)
    for row in range(3):
        u, held = list(queries[row]), 2 if row == 1 else 5
        for _ in range(3):
            p = softmax([dot(u, list(keys[i])) / 0.5 for i in range(held)])
            u = [u[j] + dot(p, [values[i, j] for i in range(held)]) for j in range(4)]
        torch.testing.assert_close(found[row], torch.stack(u))
        total = total + u[0] + 2 * u[3]
    mine = torch.autograd.grad((found @ found.new_tensor([1, 0, 0, 2])).sum(), tensors)
    for one, other in zip(mine, torch.autograd.grad(total, tensors), strict=True):
        torch.testing.assert_close(one, other)


def test_several_soft_hops_become_hard_ones_as_the_temperature_goes_to_zero():
    queries, keys, values = drawn(7, 4), drawn(9, 4, seed=1), drawn(9, 4, seed=2)
    mask = torch.rand(7, 9, generator=torch.Generator().manual_seed(3)) > 0.4
    hard = multi_hop_read(queries, keys, values, mask, hops=3, hard=True)
    soft = multi_hop_read(queries, keys, values, mask, 1e-5, hops=3)
    torch.testing.assert_close(soft, hard)
    with pytest.raises(ValueError, match="hops must be an integer of at least 1, not 0"):
        multi_hop_read(queries, keys, values, hops=0)


def test_the_soft_read_becomes_the_hard_read_as_the_temperature_goes_to_zero():
    queries, keys, values = drawn(7, 4), drawn(9, 4, seed=1), drawn(9, 3, seed=2)
    mask = torch.rand(7, 9, generator=torch.Generator().manual_seed(3)) > 0.4
    hard = hard_read(queries, keys, values, mask)
    distances = [
        (soft_read(queries, keys, values, mask, temperature) - hard).abs().max().item()
        for temperature in (1.0, 0.1, 0.01, 0.0001)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.1
    assert distances[-1] < 1e-9


def test_of_equal_keys_the_hard_read_takes_the_lower_slot():
    keys = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    weights = attention_weights(torch.tensor([[1.0, 0.0]]), keys, hard=True)
    assert weights.tolist() == [[0, 1, 0]]


def test_a_query_that_may_read_no_key_is_refused():
    mask = torch.tensor([[True, False], [False, False]])
    for read in (soft_read, hard_read):
        with pytest.raises(ValueError, match="query 1 has no key to read"):
            read(torch.eye(2), torch.eye(2), torch.eye(2), mask)


@pytest.fixture
def memory():
    memory = Memory(key_dim=8, memory_size=32, update=None)
    memory.write(drawn(20, 8, seed=4).float(), torch.arange(20) % 4)
    return memory


def test_one_hard_hop_answers_as_the_memory_does(memory):
    queries = drawn(40, 8, seed=5).float()
    reading = MultiHopReader(memory, hard=True)(queries)
    assert torch.equal(reading.prediction, memory(queries, k=1).prediction)


def test_a_soft_reader_becomes_the_hard_one_as_the_temperature_goes_to_zero(memory):
    queries = drawn(40, 8, seed=5).float()
    hard = MultiHopReader(memory, hops=3, hard=True)(queries)
    soft = MultiHopReader(memory, hops=3, temperature=1e-5)(queries)
    torch.testing.assert_close(soft.attention, hard.attention, rtol=0, atol=1e-3)
    torch.testing.assert_close(soft.probabilities, hard.probabilities, rtol=0, atol=1e-3)


def test_probabilities_sum_to_one_and_empty_slots_have_none(memory):
    before = {name: tensor.clone() for name, tensor in memory.state_dict().items()}
    reading = MultiHopReader(memory, hops=2)(drawn(5, 8).float())
    torch.testing.assert_close(reading.probabilities.sum(1), torch.ones(5))
    assert (reading.attention[:, :, memory.values == -1] == 0).all()
    for name, tensor in memory.state_dict().items():
        assert torch.equal(before[name], tensor)


def test_hops_move_a_query_to_where_more_features_are():
    """A query nearest to a lone example of class 1, beside many of class 0."""
    memory = Memory(key_dim=2, memory_size=8)
    angles = torch.tensor([0.0, 0.05, -0.05, 0.1, 0.62])
    keys = torch.stack([angles.cos(), angles.sin()], 1)
    memory.load_state_dict({**memory.state_dict()})
    memory.keys[:5], memory.values[:5] = keys, torch.tensor([0, 0, 0, 0, 1])
    query = torch.tensor([[0.37], [0.37]]).squeeze(1)
    query = torch.stack([query.cos(), query.sin()], 1)[:1]
    answers = [
        MultiHopReader(memory, hops=hops, temperature=0.05)(query).probabilities[0, 0].item()
        for hops in (1, 2, 3)
    ]
    assert answers == sorted(answers)
    assert answers[-1] > answers[0] + 0.02


def test_an_empty_memory_and_no_hops_are_refused(memory):
    with pytest.raises(ValueError, match="the memory is empty"):
        MultiHopReader(Memory(key_dim=8))(drawn(1, 8).float())
    with pytest.raises(ValueError, match="hops must be an integer of at least 1, not 0"):
        MultiHopReader(memory, hops=0)
