"""The second search: the nearest slot of the right value, and the nearest of a wrong one.

It needs no sorting: two running maxima a query. The loss stands on it, so a training step has no
top-k at all.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.base.state import EMPTY
from rarememory.lookup.exact import SCORE_OFFSET, nearest_slot

SCORES_AT_ONCE = 2**24
"""Scores of one matrix, 64 MiB in float32. A search holds two; one query may need more."""


def nearest_pair(
    queries: Float[Tensor, "batch key_dim"],
    keys: Float[Tensor, "slots key_dim"],
    values: Int64[Tensor, " slots"],
    labels: Int64[Tensor, " batch"],
) -> tuple[Int64[Tensor, " batch"], Int64[Tensor, " batch"]]:
    """Slots of the positive and of the negative of every query, over the whole memory.

    positive = argmax q.K[i] over V[i] = label; negative = argmax q.K[i] over V[i] != label (Kaiser
    et al. 2017, section 2). EMPTY where there is none, or where a query is not finite.
    """
    at_once = max(1, SCORES_AT_ONCE // max(1, len(keys)))
    pairs = [
        _pair_of_chunk(some, keys, values, labels_of_some)
        for some, labels_of_some in zip(queries.split(at_once), labels.split(at_once), strict=True)
    ]
    if len(pairs) == 1:
        return pairs[0]
    return torch.cat([positive for positive, _ in pairs]), torch.cat([n for _, n in pairs])


def _pair_of_chunk(
    queries: Tensor, keys: Tensor, values: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    scores = occupied_scores(queries, keys, values != EMPTY)
    # Arithmetic on a mask of numbers takes a quarter of the time of selecting by one of booleans,
    # and done in place it needs no third matrix.
    right = torch.empty_like(scores)
    torch.eq(values, labels.unsqueeze(1), out=right)
    scores.sub_(right, alpha=SCORE_OFFSET)
    torch.add(scores, right, alpha=2 * SCORE_OFFSET, out=right)
    negative = nearest_slot(queries, keys, scores, floor=-2.0)
    positive = nearest_slot(queries, keys, right, floor=SCORE_OFFSET - 2.0)
    return positive, negative


def occupied_scores(queries: Tensor, keys: Tensor, occupied: Tensor) -> Tensor:
    """Rounded cosines [batch, slots], below -2 where a slot is empty or a query is not finite."""
    # Products of half precision would be rounded to it; on a CPU they are slow besides.
    wide = torch.promote_types(keys.dtype, torch.float32)
    queries, keys = queries.to(wide), keys.to(wide)
    nothing = torch.empty(len(keys), dtype=wide, device=keys.device)
    torch.logical_not(occupied, out=nothing).mul_(-2 * SCORE_OFFSET)
    scores = torch.addmm(nothing, queries, keys.T)
    if queries.device.type != "cpu" or not queries.sum().isfinite():
        scores.masked_fill_(~queries.isfinite().all(1, keepdim=True), -2 * SCORE_OFFSET)
    return scores
