"""The rule of each method: scores of the classes from a support [way, shot, dim] and queries.

A method with a loss of its own is trained by the cross-entropy of the same scores.
"""

import torch
from jaxtyping import Float
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn.functional import normalize

Support = Float[Tensor, "way shot dim"]
Queries = Float[Tensor, "queries dim"]


def nearest(support: Support, queries: Queries) -> Float[Tensor, "queries way"]:
    """The highest cosine to a drawing of the class."""
    return _cosines(support, queries).amax(2)


def class_mean(support: Support, queries: Queries) -> Float[Tensor, "queries way"]:
    """The cosine to the mean direction of the class (Mensink et al. 2013)."""
    means = normalize(normalize(support, dim=2).mean(1), dim=1)
    return normalize(queries, dim=1) @ means.T


def prototypical(support: Support, queries: Queries) -> Float[Tensor, "queries way"]:
    """-|f(x) - c|^2, c the mean embedding of the class (Snell et al. 2017, equations 1 and 2)."""
    return -(
        torch.cdist(queries, support.mean(1), compute_mode="donot_use_mm_for_euclid_dist") ** 2
    )


def matching(
    support: Support, queries: Queries, temperature: float = 1.0
) -> Float[Tensor, "queries way"]:
    """The logarithm of the attention that the drawings of the class get, up to a constant.

    y = sum_i softmax(cos(f(x), f(x_i)) / T) y_i (Vinyals et al. 2016, equation 1; T is 1 there),
    without the full-context embeddings of its section 2.1.2.
    """
    return (_cosines(support, queries) / temperature).logsumexp(2)


def k_neighbours(
    support: Support, queries: Queries, n_neighbors: int = 1, weights: str = "uniform"
) -> Float[Tensor, "queries way"]:
    """scikit-learn's vote of the nearest drawings, by cosine."""
    way, shot = support.shape[:2]
    model = KNeighborsClassifier(n_neighbors, weights=weights, metric="cosine", algorithm="brute")
    model.fit(support.flatten(0, 1).numpy(), torch.arange(way).repeat_interleave(shot).numpy())
    return torch.from_numpy(model.predict_proba(queries.numpy()))


def _cosines(support: Support, queries: Queries) -> Float[Tensor, "queries way shot"]:
    examples = normalize(support.flatten(0, 1), dim=1)
    return (normalize(queries, dim=1) @ examples.T).view(len(queries), *support.shape[:2])
