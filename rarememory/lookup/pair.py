"""The search for the nearest pair: the positive and the negative of each query.

The memory loss is computed from these two. They need two maxima and no sorting, so a training step
has no top-k.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.base.shapes import Keys, Labels, Pair, Queries, Values
from rarememory.base.state import EMPTY
from rarememory.lookup.exact import SCORE_OFFSET, nearest_slot

SCORES_AT_ONCE = 2**24
"""Scores in one matrix, 64 MiB in float32. A search holds two, larger if one query needs more."""


def nearest_pair(queries: Queries, keys: Keys, values: Values, labels: Labels) -> Pair:
    """The slots of every query's positive and negative, over the whole memory.

    positive = argmax q.K[i] over V[i] = label; negative = argmax q.K[i] over V[i] != label (Kaiser
    et al. 2017, section 2). EMPTY where there is none, or where a query is not finite.
    """
    at_once = max(1, SCORES_AT_ONCE // max(1, len(keys)))
    pairs = [
        pair_at_once(some, keys, values, labels_of_some)
        for some, labels_of_some in zip(queries.split(at_once), labels.split(at_once), strict=True)
    ]
    positives, negatives = zip(*pairs, strict=True)
    return torch.cat(positives), torch.cat(negatives)


def pair_at_once(
    queries: Float[Tensor, "*memories batch key_dim"],
    keys: Float[Tensor, "*memories slots key_dim"],
    values: Int64[Tensor, "*memories slots"],
    labels: Int64[Tensor, "*memories batch"],
) -> tuple[Int64[Tensor, "*memories batch"], Int64[Tensor, "*memories batch"]]:
    """As `nearest_pair`, all at once; with several memories, of the own one each."""
    values = values.unsqueeze(-2)
    scores = occupied_scores(queries, keys, values != EMPTY)
    # Arithmetic in place is four times as fast as torch.where, and needs no third matrix.
    positives = torch.empty_like(scores)
    torch.eq(values, labels.unsqueeze(-1), out=positives)
    negatives = scores.sub_(positives, alpha=SCORE_OFFSET)
    torch.add(negatives, positives, alpha=2 * SCORE_OFFSET, out=positives)
    negative = nearest_slot(queries, keys, negatives, floor=-2.0)
    positive = nearest_slot(queries, keys, positives, floor=SCORE_OFFSET - 2.0)
    return positive, negative


def occupied_scores(queries: Tensor, keys: Tensor, occupied: Tensor) -> Tensor:
    """Rounded cosines [batch, slots], below -2 where a slot is empty or a query is not finite.

    What counts as occupied may differ from row to row, [batch, slots]. All may have a dimension of
    memories before these.
    """
    # Products in half precision would be rounded to it, and are slow on a CPU.
    wide = torch.promote_types(keys.dtype, torch.float32)
    queries, keys = queries.to(wide), keys.to(wide)
    offset = torch.empty(occupied.shape, dtype=wide, device=keys.device)
    torch.logical_not(occupied, out=offset).mul_(-2 * SCORE_OFFSET)
    multiply = torch.addmm if keys.dim() == 2 else torch.baddbmm
    scores = multiply(offset, queries, keys.mT)
    if queries.device.type != "cpu" or not queries.sum().isfinite():
        scores.masked_fill_(~queries.isfinite().all(-1, keepdim=True), -2 * SCORE_OFFSET)
    return scores
