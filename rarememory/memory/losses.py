"""Losses that train an encoder under a memory: pure functions of scores."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def margin_loss(
    positive: Float[Tensor, "*batch"],
    negative: Float[Tensor, "*batch"],
    margin: float = 0.1,
    *,
    mask: Bool[Tensor, "*batch"] | None = None,
    dim: int | None = None,
) -> Float[Tensor, "*means"]:
    """The memory loss: the nearest right key has to beat the nearest wrong one by a margin.

    loss = mean over rows of [ q.K[b] - q.K[p] + margin ]_+, p the nearest slot of the right value,
    b the nearest of a wrong one (Kaiser et al. 2017, section 2).

    Scores of -inf stand for a neighbour that is not there. Without a positive its score counts as
    0, as in the authors' code, so that a class seen for the first time is pushed away from the
    others; without a negative there is nothing to compare, and the row adds 0.

    Args:
        positive: score of the nearest slot of the right value.
        negative: score of the nearest slot of a wrong value.
        margin: the paper's alpha.
        mask: rows that count; all of them if None. Without any the loss is 0.
        dim: the axis to take the mean over; over all rows if None.

    Example:
        >>> margin_loss(torch.tensor([0.9, 0.5]), torch.tensor([0.2, 0.5]))
        tensor(0.0500)
    """
    # Below a negative of -inf any positive lies far enough: the loss is 0, and so is its gradient.
    positive = positive.masked_fill(positive == -torch.inf, 0.0)
    losses = torch.relu(negative - positive + margin)
    return _mean_of(losses, mask, dim)


def vote_loss(
    scores: Float[Tensor, "*batch k"],
    values: Int64[Tensor, "*batch k"],
    labels: Int64[Tensor, "*batch"],
    temperature: float = 0.025,
    *,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, ""]:
    """The negative log-likelihood of the right value in the memory's vote.

    loss = mean over rows of -log sum_{i: V[n_i] = v} softmax(q.K[n_1] / T, ..., q.K[n_k] / T)_i,
    the softmax of Kaiser et al. 2017, section 2, trained as Matching Networks train theirs (Vinyals
    et al. 2016, equation 1). It learns from all neighbours at once, where the margin loss sees two.

    Args:
        scores: of the neighbours of each query, as in `Recall`; -inf where there is none.
        values: their values.
        labels: the right values.
        temperature: the T above.
        mask: rows that count; all of them if None. A row without a right neighbour adds 0.

    Example:
        >>> scores, values = torch.tensor([[0.5, 0.5]]), torch.tensor([[3, 4]])
        >>> vote_loss(scores, values, torch.tensor([3]))
        tensor(0.6931)
    """
    right = (values == labels.unsqueeze(-1)) & (scores > -torch.inf)
    voted = right.any(dim=-1)
    # A finite stand-in for -inf keeps gradients finite in rows that find nothing.
    lowest = torch.finfo(scores.dtype).min / 2
    logits = (scores / temperature).clamp(min=lowest)
    log_likelihoods = logits.masked_fill(~right, lowest).logsumexp(-1) - logits.logsumexp(-1)
    return _mean_of(-log_likelihoods.where(voted, 0.0), mask)


def _mean_of(losses: Tensor, mask: Tensor | None, dim: int | None = None) -> Tensor:
    if mask is not None:
        return losses.masked_fill(~mask, 0.0).sum(dim) / mask.sum(dim).clamp(min=1)
    # Summed in float64 where the device has it, so that every way of summing gives the same.
    wide = losses.dtype if losses.device.type == "mps" else torch.float64
    return losses.mean(dim, dtype=wide).to(losses.dtype) if losses.numel() else losses.sum(dim)
