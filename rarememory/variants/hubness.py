"""How close each class stands to keys of others: one close to many of them answers too often.

In many dimensions some points, the hubs, are among the nearest of far too many queries (Radovanovic
et al. 2010). What is measured here is taken off the score of a class, after the local scaling of
Conneau et al. 2018, section 2.3: that looks for neighbours among the queries, which have to be
known for it; this looks among the other keys in memory.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.lookup.pair import SCORES_AT_ONCE

HUBNESS_NEIGHBORS = 10
"""Keys of other classes that are averaged; Conneau et al. take 10 queries."""


def class_hubness(
    means: Float[Tensor, "classes key_dim"],
    keys: Float[Tensor, "slots key_dim"],
    places: Int64[Tensor, " slots"],
    k: int,
) -> Float[Tensor, " classes"]:
    """The mean cosine of the mean of a class and the nearest keys of other classes.

    r(v) = 1/k sum of the k greatest m_v . K[n] of n not in v

    Those keys may be of one class or of several: the keys of one large class may be all of them.

    Args:
        means: m_v, at unit length.
        keys: at unit length.
        places: the class of each key, as its place among the means.
        k: no more than any class has keys beside it; with 0 the result is 0.

    Example:
        >>> keys = torch.tensor([[0.6, 0.8], [0.0, 1.0], [1.0, 0.0]])
        >>> class_hubness(keys[:2], keys, torch.tensor([0, 1, 1]), 1)
        tensor([0.8000, 0.8000])
    """
    if k == 0:
        return means.new_zeros(len(means))
    found, classes = [], torch.arange(len(means), device=keys.device)
    pieces = max(1, SCORES_AT_ONCE // len(keys))
    for some, numbers in zip(means.split(pieces), classes.split(pieces), strict=True):
        cosines = (some @ keys.T).masked_fill(numbers.unsqueeze(1) == places, -torch.inf)
        found.append(cosines.topk(k, dim=1).values.mean(dim=1))
    return torch.cat(found)
