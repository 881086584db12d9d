"""Scores of given slots, computed in one place, and the one order: higher first, then lower slot.

A matrix product may round the same dot product differently in its last columns than in its first,
so two equal keys can get unequal scores. Here a score is a sum over the key's own axis, the same
for the same key wherever it lies: every backend's neighbours are ordered by these scores.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rarememory.state import EMPTY

APART = 4
"""Scores lie in [-1, 1]: this much added or taken away sets one group of them apart for certain."""

_PAIRS_AT_ONCE = 2**18


def tolerance(keys: Tensor) -> float:
    """How much lower than the best a slot may score in a matrix product and still be the best.

    A dot product of unit vectors is within d eps / 2 of the truth (Higham 2002, section 3.1), an
    offset adds APART eps, and two slots may each be off so, in the product and in the score.
    """
    return 2 * (keys.shape[1] + 2 * APART) * torch.finfo(keys.dtype).eps


def score(
    queries: Float[Tensor, "batch key_dim"],
    keys: Float[Tensor, "slots key_dim"],
    slots: Int64[Tensor, "batch k"],
) -> Float[Tensor, "batch k"]:
    """Cosine of each query with the keys of its slots, with gradient to the queries.

    A slot that is EMPTY scores -inf.
    """
    found = keys[slots]  # [batch, k, key_dim]; of slot EMPTY the last, which is struck out below
    return (queries.unsqueeze(1) * found).sum(-1).masked_fill(slots == EMPTY, -torch.inf)


def order(scores: Float[Tensor, "batch k"], slots: Int64[Tensor, "batch k"]) -> Tensor:
    """Places of the neighbours in the one order, EMPTY last."""
    by_slot = slots.argsort(dim=-1)
    by_score = scores.gather(-1, by_slot).argsort(dim=-1, descending=True, stable=True)
    return by_slot.gather(-1, by_score)


def best(
    queries: Float[Tensor, "batch key_dim"],
    keys: Float[Tensor, "slots key_dim"],
    near: Bool[Tensor, "batch slots"],
    k: int,
) -> Int64[Tensor, "batch k"]:
    """The k best of the slots marked `near` for each query, in the one order, EMPTY after them."""
    # Row by row, then slot by slot: the stable sorts below keep the lower slot first in a tie.
    rows, slots = near.nonzero(as_tuple=True)
    scores = torch.cat(
        [
            (queries[some] * keys[slots_of_some]).sum(-1)
            for some, slots_of_some in zip(
                rows.split(_PAIRS_AT_ONCE), slots.split(_PAIRS_AT_ONCE), strict=True
            )
        ]
    )
    by_score = scores.argsort(descending=True, stable=True)
    in_order = by_score[rows[by_score].argsort(stable=True)]
    rows, slots = rows[in_order], slots[in_order]
    found = near.sum(1)
    place = torch.arange(len(rows), device=rows.device) - (found.cumsum(0) - found)[rows]
    kept = place < k
    chosen = slots.new_full((len(queries), k), EMPTY)
    chosen[rows[kept], place[kept]] = slots[kept]
    return chosen


def first_best(
    queries: Float[Tensor, "batch key_dim"],
    keys: Float[Tensor, "slots key_dim"],
    scores: Float[Tensor, "batch slots"],
    floor: float,
) -> Int64[Tensor, " batch"]:
    """The best slot of each row of rounded scores, or EMPTY where all are below the floor.

    The scores are used up.
    """
    highest = scores.amax(1, keepdim=True)
    slots = _argmax(scores)
    threshold = (highest - tolerance(keys)).clamp(min=floor)
    # A runner-up within rounding is rare; without one, the matrix product has decided rightly.
    runner_up = scores.scatter_(1, slots, -torch.inf).amax(1, keepdim=True)
    if (runner_up >= threshold).any():
        near = scores.scatter_(1, slots, highest) >= threshold
        return best(queries, keys, near, 1).squeeze(1)
    return slots.masked_fill(highest < floor, EMPTY).squeeze(1)


def numpy_holds(scores: Tensor) -> bool:
    """Whether NumPy can look at the scores where they are."""
    return scores.device.type == "cpu" and scores.dtype != torch.bfloat16


def _argmax(scores: Tensor) -> Tensor:
    if numpy_holds(scores):
        # NumPy's is vectorised, and five times as fast as torch's.
        return torch.from_numpy(scores.numpy().argmax(1, keepdims=True))
    return scores.argmax(1, keepdim=True)
