"""One answer of two: the memory's vote and the host's own, mixed by how near the memory is.

    p(y | x) = share p_memory(y | x) + (1 - share) p_host(y | x)

is the mixture of kNN-LM (Khandelwal et al. 2020, equation 3). There the share is one number; here
it falls with the distance to the nearest remembered example, as the affinity exp(-beta (1 - s)) of
Tip-Adapter does (Zhang et al. 2022), so that what the memory never saw is left to the host:

    p_memory(y) = sum_{i: V[n_i] = y} softmax(s_1 / T, ..., s_k / T)_i
    p_host      = softmax(logits / T_host)
    share       = sigmoid((s_1 - host_score) / width)

with s_i = q.K[n_i], s_1 the greatest (the vote is that of Kaiser et al. 2017, section 2).
`host_score` is the cosine at which both weigh the same; a great `width` makes the share constant.
Without a host the memory has all of it; with an empty memory the host has.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.state import EMPTY

FORGOTTEN = -1e30
"""The logit of a class of the host that is not to be answered; finite, and so are gradients."""


class Weighing(NamedTuple):
    """The four numbers of the formula above: T, host_score, width, T_host."""

    temperature: Tensor
    host_score: Tensor
    width: Tensor
    host_temperature: Tensor


class Evidence(NamedTuple):
    """What memory and host say of each example, before it is weighed.

    Attributes:
        scores: of the neighbours, best first; -inf where there is none.
        values: their integers; EMPTY where there is none.
        logits: of the host's classes; FORGOTTEN for one that was; None without a host.
    """

    scores: Float[Tensor, "batch k"]
    values: Int64[Tensor, "batch k"]
    logits: Float[Tensor, "batch n_host"] | None


def vote_weights(evidence: Evidence, weighing: Weighing) -> Float[Tensor, "batch k"]:
    """softmax(scores / T) over the neighbours; 0 where there is none."""
    there = evidence.values != EMPTY
    # Where there is none the score is -inf, through which no gradient would come back whole.
    logits = evidence.scores.masked_fill(~there, 0.0) / weighing.temperature
    logits = logits.masked_fill(~there, FORGOTTEN)
    return logits.softmax(-1) * there


def memory_share(evidence: Evidence, weighing: Weighing) -> Float[Tensor, " batch"]:
    """The memory's part of the answer, in [0, 1]; 0 where it found nothing."""
    there = evidence.values[:, 0] != EMPTY
    if evidence.logits is None:
        return there.to(evidence.scores.dtype)
    nearest = evidence.scores[:, 0].masked_fill(~there, 0.0)
    return torch.sigmoid((nearest - weighing.host_score) / weighing.width) * there


def blended(
    evidence: Evidence,
    weighing: Weighing,
    ids: Int64[Tensor, " classes"],
    host_ids: Int64[Tensor, " n_host"],
) -> Float[Tensor, "batch classes"]:
    """The probability of every class.

    Args:
        evidence: what memory and host say.
        weighing: the numbers of the formula.
        ids: integers of the classes, ascending.
        host_ids: integer of each of the host's classes, EMPTY for one that was forgotten.
    """
    share = memory_share(evidence, weighing).unsqueeze(1)
    weights = share * vote_weights(evidence, weighing)
    # What is of no class weighs 0, wherever it is added; a column more, for there may be no class.
    chances = weights.new_zeros(len(weights), len(ids) + 1)
    chances = chances.scatter_add(1, torch.searchsorted(ids, evidence.values), weights)
    if evidence.logits is not None:
        host = (1 - share) * (evidence.logits / weighing.host_temperature).softmax(1)
        columns = torch.searchsorted(ids, host_ids).expand(len(host), -1)
        chances = chances.scatter_add(1, columns, host.to(chances.dtype))
    return chances[:, : len(ids)]
