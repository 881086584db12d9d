"""How close each class stands to the others: a crowded one answers too often.

In many dimensions some points, the hubs, are among the nearest of far too many queries (Radovanovic
et al. 2010). To take off a cosine how close its class is to others is the local scaling of Conneau
et al. 2018, section 2.3, but by keys alone: queries need not be known beforehand.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

NEIGHBORS = 10
"""Keys of other classes that make the crowd; Conneau et al. take 10."""
_CELLS = 2**24
"""Cosines at once, of so many classes and all keys: 64 MiB of them."""


def crowded(
    keys: Float[Tensor, "slots key_dim"], classes: Int64[Tensor, " slots"], n_classes: int
) -> Float[Tensor, " n_classes"]:
    """The mean cosine of a class's mean to the nearest keys of other classes.

    r(v) = 1/k sum of the k greatest m_v . K[n] of n not in v,   m_v the mean of v at unit length

    k is 10, or for all as many as the class with the fewest keys beside it has; alone it has r = 0.

    Args:
        keys: at unit length.
        classes: of each key, from 0 to n_classes - 1.
        n_classes: each has a key at least.

    Example:
        >>> keys = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> crowded(keys, torch.tensor([0, 0, 1]), 2)
        tensor([0.4472, 0.8000])
    """
    n_others = len(keys) - int(classes.bincount(minlength=1).max())
    if n_others == 0:
        return keys.new_zeros(n_classes)
    sums = keys.new_zeros(n_classes, keys.shape[1]).index_add_(0, classes, keys)
    own = torch.arange(n_classes, device=keys.device)
    pieces = max(1, _CELLS // len(keys))
    found = []
    for means, places in zip(normalize(sums, dim=1).split(pieces), own.split(pieces), strict=True):
        cosines = (means @ keys.T).masked_fill(places.unsqueeze(1) == classes, -torch.inf)
        found.append(cosines.topk(min(NEIGHBORS, n_others), dim=1).values.mean(dim=1))
    return torch.cat(found)
