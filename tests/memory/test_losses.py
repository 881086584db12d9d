"""The losses, against loops and finite differences, alone and through the memory."""

import math

import pytest
import torch

from rarememory import EMPTY, Memory, margin_loss, vote_loss
from tests.memories import LOOKUPS, holding

ODD = [1, 7, 33, 129]
GONE = -math.inf


def masks(batch: int) -> list[torch.Tensor | None]:
    return [None, torch.ones(batch, dtype=bool), torch.arange(batch) % 2 == 0]


def margin_in_loops(positive, negative, margin, mask):
    rows = [row for row in range(len(positive)) if mask is None or mask[row]]
    losses = []
    for row in rows:
        right = 0.0 if positive[row] == GONE else positive[row]
        hinge = max(0.0, negative[row] - right + margin)
        losses.append(0.0 if negative[row] == GONE else hinge)
    return math.fsum(losses) / max(1, len(rows))


@pytest.mark.parametrize("batch", ODD)
@pytest.mark.parametrize("margin", [0.0, 0.1, 1.0])
def test_the_margin_loss_is_the_mean_hinge_of_the_rows_that_count(batch, margin):
    positive, negative = torch.rand(2, batch, dtype=torch.float64) * 2 - 1
    positive[torch.rand(batch) < 0.2] = GONE
    negative[torch.rand(batch) < 0.2] = GONE
    for mask in masks(batch):
        truth = margin_in_loops(positive.tolist(), negative.tolist(), margin, mask)
        assert margin_loss(positive, negative, margin, mask=mask).item() == pytest.approx(truth)


def test_a_class_not_in_the_memory_has_positive_score_0():
    loss = margin_loss(torch.tensor([GONE, GONE]), torch.tensor([0.5, -0.3]))
    assert loss.item() == pytest.approx((0.6 + 0.0) / 2)


def test_with_one_class_in_the_memory_nothing_is_compared_and_the_row_adds_0():
    assert margin_loss(torch.tensor([-1.0]), torch.tensor([GONE])).item() == 0
    assert margin_loss(torch.tensor([GONE]), torch.tensor([GONE])).item() == 0


@pytest.mark.parametrize("loss", [margin_loss, vote_loss])
@pytest.mark.parametrize("batch", [0, 3])
def test_without_a_row_that_counts_the_loss_is_0_and_so_is_its_gradient(loss, batch):
    scores = torch.rand(batch, 2, requires_grad=True)
    values = torch.tensor([[0, 1]]).expand(batch, 2)
    labels = torch.zeros(batch, dtype=torch.int64)
    for mask in [torch.zeros(batch, dtype=bool), *([None] if batch == 0 else [])]:
        if loss is margin_loss:
            result = margin_loss(scores[:, 0], scores[:, 1], mask=mask)
        else:
            result = vote_loss(scores, values, labels, mask=mask)
        assert result.item() == 0 and result.shape == ()
        result.backward()
        assert scores.grad.eq(0).all()


def test_the_default_margin_and_temperature_are_the_papers():
    assert margin_loss(torch.tensor([0.0]), torch.tensor([0.0])).item() == pytest.approx(0.1)
    scores, values = torch.tensor([[0.025, 0.0]]), torch.tensor([[0, 1]])
    truth = math.log(1 + math.exp(-1))
    assert vote_loss(scores, values, torch.tensor([0])).item() == pytest.approx(truth)


def vote_in_loops(scores, values, labels, temperature, mask):
    rows = [row for row in range(len(labels)) if mask is None or mask[row]]
    losses = []
    for row in rows:
        there = [i for i, score in enumerate(scores[row]) if score > GONE]
        right = [i for i in there if values[row][i] == labels[row]]
        if right:
            power = [math.exp(score / temperature) for score in scores[row]]
            share = math.fsum(power[i] for i in right) / math.fsum(power[i] for i in there)
            losses.append(-math.log(share))
    return math.fsum(losses) / max(1, len(rows))


@pytest.mark.parametrize("batch", ODD)
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.025), (7, 0.025), (33, 0.5)])
def test_the_vote_loss_is_the_mean_surprise_of_the_rows_that_count(batch, k, temperature):
    scores = torch.rand(batch, k, dtype=torch.float64) * 2 - 1
    values, labels = torch.randint(0, 4, (batch, k)), torch.randint(0, 5, (batch,))
    gone = torch.rand(batch, k) < 0.2
    # A neighbour that is not there does not vote, whatever its value says.
    scores[gone] = GONE
    for mask in masks(batch):
        listed = (scores.tolist(), values.tolist(), labels.tolist())
        truth = vote_in_loops(*listed, temperature, mask)
        result = vote_loss(scores, values, labels, temperature, mask=mask)
        assert result.item() == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_gradients_are_finite_where_scores_are_minus_infinity(dtype):
    scores = torch.tensor(
        [[0.5, 0.2, GONE], [GONE, GONE, GONE], [0.3, GONE, GONE], [-1.0, 1.0, GONE]],
        dtype=dtype, requires_grad=True,
    )  # fmt: skip
    values = torch.tensor([[0, 1, EMPTY], [EMPTY] * 3, [1, EMPTY, EMPTY], [0, 1, EMPTY]])
    labels = torch.tensor([1, 0, 0, 0])
    loss = vote_loss(scores, values, labels) + margin_loss(scores[:, 0], scores[:, 1])
    assert loss.isfinite()
    loss.backward()
    assert scores.grad.isfinite().all() and scores.grad[scores == GONE].eq(0).all()


def test_the_losses_pass_gradcheck():
    scores = (torch.rand(7, 5, dtype=torch.float64) * 2 - 1).requires_grad_()
    values, labels = torch.randint(0, 3, (7, 5)), torch.randint(0, 3, (7,))
    mask = torch.arange(7) > 1
    assert torch.autograd.gradcheck(
        lambda s: margin_loss(s[:, 0], s[:, 1], 0.3, mask=mask), (scores,)
    )
    assert torch.autograd.gradcheck(
        lambda s: vote_loss(s, values, labels, 0.5, mask=mask), (scores,)
    )


@pytest.mark.parametrize("projection", [False, True])
def test_the_loss_of_the_memory_passes_gradcheck(projection):
    memory = holding(
        torch.randn(33, 5, dtype=torch.float64), torch.randint(0, 4, (33,)).tolist(),
        margin=2.5, projection=projection,
    )  # fmt: skip
    queries = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    labels, mask = torch.randint(0, 5, (2, 3)), torch.tensor([[True, True, False], [True] * 3])
    assert torch.autograd.gradcheck(lambda q: memory(q, labels, mask=mask).loss, (queries,))
    assert torch.autograd.gradcheck(lambda q: memory(q, k=4).weights[..., :2], (queries,))
    assert torch.autograd.gradcheck(lambda q: memory(q, k=4).scores, (queries * 1e9,))


@pytest.mark.parametrize("slots", [1, 6, 40, 400])
@pytest.mark.parametrize("n_written", [1, 5])
def test_the_gradient_of_scores_is_the_keys_as_they_were_however_many_are_found(slots, n_written):
    memory = Memory(5, slots)
    memory.write(torch.randn(min(n_written, slots), 5), torch.arange(min(n_written, slots)))
    queries = torch.randn(7, 5, requires_grad=True)
    recall = memory(queries, k=min(slots, 8))
    weights = torch.rand_like(recall.scores)
    found, keys = recall.slots != EMPTY, memory.keys[recall.slots].clone()
    # A write before the gradient is asked for, which it must not see.
    memory.write(torch.randn(3, 5), torch.tensor([8, 9, 10]))
    (recall.scores.where(found, 0.0) * weights).sum().backward()
    units = torch.nn.functional.normalize(queries.detach(), dim=1)
    whole = ((weights * found).unsqueeze(2) * keys).sum(1)
    along = (whole * units).sum(1, keepdim=True) * units
    expected = (whole - along) / queries.detach().norm(dim=1, keepdim=True)
    torch.testing.assert_close(queries.grad, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_the_keys_never_get_a_gradient(lookup):
    memory = holding(torch.randn(33, 5), torch.randint(0, 4, (33,)).tolist(), lookup=lookup)
    queries = torch.randn(7, 5, requires_grad=True)
    recall = memory(queries, torch.randint(0, 4, (7,)), k=9)
    (recall.loss + recall.weights.square().sum() + recall.scores.sum()).backward()
    memory.write(recall, torch.randint(0, 4, (7,)))
    assert queries.grad.abs().sum() > 0
    assert all(b.grad is None and not b.requires_grad and b.is_leaf for b in memory.buffers())


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize("k", [None, 1, 9])
def test_the_loss_does_not_depend_on_how_many_neighbours_are_shown(lookup, k):
    memory = holding(torch.randn(33, 5), torch.randint(0, 4, (33,)).tolist(), lookup=lookup)
    queries, labels = torch.randn(7, 5), torch.randint(0, 5, (7,))
    recall = memory(queries, labels, k=k)
    assert recall.slots.shape == (7, 2 if k is None else k)
    assert torch.equal(recall.loss, memory(queries, labels).loss)
    if k is not None:
        assert torch.equal(recall.slots, memory(queries, k=k).slots)


def test_the_margin_of_the_memory_is_that_of_its_loss():
    queries, labels = torch.tensor([[0.6, 0.8]]), torch.tensor([0])
    for margin in (0.0, 0.1, 0.5):
        memory = holding(torch.eye(2), [0, 1], margin=margin)
        assert memory(queries, labels).loss.item() == pytest.approx(0.2 + margin)


def test_the_authors_offset_is_an_option():
    keys, queries, labels = torch.eye(3), torch.randn(5, 3, requires_grad=True), torch.arange(5)
    plain = holding(keys, [0, 1, 2])(queries, labels).loss
    theirs = holding(keys, [0, 1, 2], subtract_margin=True)(queries, labels).loss
    assert theirs.item() == pytest.approx(plain.item() - 0.1)
    slopes = [torch.autograd.grad(loss, queries)[0] for loss in (plain, theirs)]
    assert torch.equal(*slopes)


def test_the_temperature_divides_the_scores():
    for temperature in (0.025, 0.5, 3.0):
        memory = holding(torch.eye(2), [0, 1], temperature=temperature)
        recall = memory(torch.tensor([[0.8, 0.6]]))
        odds = math.exp(0.2 / temperature)
        assert recall.temperature == temperature
        assert recall.confidence.item() == pytest.approx(odds / (1 + odds))


def test_a_labelled_read_of_an_empty_batch_has_loss_0():
    memory = Memory(3, 4, subtract_margin=False)
    queries = torch.zeros(0, 3, requires_grad=True)
    loss = memory(queries, torch.zeros(0, dtype=torch.int64)).loss
    loss.backward()
    assert loss.item() == 0 and queries.grad.shape == (0, 3)


def test_losses_take_any_leading_shape():
    scores, values = torch.randn(2, 5, 5), torch.randint(0, 3, (2, 5, 5))
    labels, mask = torch.randint(0, 3, (2, 5)), torch.rand(2, 5) < 0.7
    # One row without a right neighbour, in a column that has one in another.
    values[0, 1], values[0, 2, 1], mask[0, 1] = 7, labels[0, 1], True
    values[0, :, 1][2] = labels[0, 1]
    flat = vote_loss(
        scores.flatten(0, 1), values.flatten(0, 1), labels.flatten(), mask=mask.flatten()
    )
    torch.testing.assert_close(vote_loss(scores, values, labels, mask=mask), flat)
    one, other = scores[..., 0], scores[..., 1]
    torch.testing.assert_close(
        margin_loss(one, other, mask=mask),
        margin_loss(one.flatten(), other.flatten(), mask=mask.flatten()),
    )
