"""The search that defines the result: a matrix product, a threshold, exact scores near it."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rarememory.base.shapes import Among, Keys, Neighbors, Occupied, Queries
from rarememory.base.state import EMPTY
from rarememory.lookup.base import Lookup, with_their_marks
from rarememory.lookup.exact import k_nearest, nearest_slot, numpy_can_read, tolerance
from rarememory.lookup.pair import SCORES_AT_ONCE, occupied_scores


class TorchLookup(Lookup):
    """Exact search on every device and dtype, with a bounded number of scores at a time.

    argmax_k q.K[n], by a matrix product (Kaiser et al. 2017, section 2). The other exact searches
    must find what this one finds.

    Example:
        >>> keys, occupied = torch.eye(3), torch.tensor([True, True, False])
        >>> TorchLookup().nearest(torch.tensor([[0.0, 0.6, 0.8]]), keys, occupied, k=1)
        tensor([[1]])
    """

    name = "torch"
    reads_among = True

    def nearest(
        self,
        queries: Queries,
        keys: Keys,
        occupied: Occupied,
        k: int,
        *,
        among: Among | None = None,
    ) -> Neighbors:
        k = min(k, len(keys))
        at_once = max(1, SCORES_AT_ONCE // max(1, len(keys)))
        parts = with_their_marks(queries, occupied if among is None else among, at_once)
        return torch.cat([nearest_at_once(some, keys, marks, k) for some, marks in parts])


def nearest_at_once(
    queries: Float[Tensor, "*memories batch key_dim"],
    keys: Float[Tensor, "*memories slots key_dim"],
    occupied: Bool[Tensor, "*#batch slots"],
    k: int,
) -> Int64[Tensor, "*memories batch k"]:
    """As `TorchLookup.nearest`, all at once; with several memories, of the own one each."""
    scores = occupied_scores(queries, keys, occupied)
    if k == 1:
        return nearest_slot(queries, keys, scores, floor=-2.0).unsqueeze(-1)
    near = scores >= (_kth_highest(scores, k) - tolerance(keys)).clamp(min=-2)
    # With exactly k slots above the threshold, rounding cannot change which they are.
    sure = near.sum(-1) == k
    slots = queries.new_full((*queries.shape[:-1], k), EMPTY, dtype=torch.int64)
    slots[sure] = near[sure].nonzero()[:, 1].view(-1, k)
    unsure = ~sure
    if unsure.any():
        near &= unsure.unsqueeze(-1)
        slots[unsure] = k_nearest(queries, keys, near, k)[unsure]
    return slots


def _kth_highest(scores: Tensor, k: int) -> Tensor:
    """The k-th highest score of each row, [..., 1]."""
    if numpy_can_read(scores):
        # NumPy's selection is about ten times as fast as torch.topk at k = 256.
        place = scores.shape[-1] - k
        highest = np.partition(scores.numpy(), place, axis=-1)[..., place, None]
        return torch.from_numpy(highest.copy())
    return scores.topk(k, dim=-1).values[..., -1:]
