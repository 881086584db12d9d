"""Square roots of features that are never negative, as those after a ReLU.

    g(f) = sqrt(f / sum f)                      g . g' = sum_d sqrt(p_d p'_d),  p = f / sum f

Such features are mostly small, and a few of them large: a cosine is decided by these few. Their
square roots are more nearly normally distributed (Tukey 1977; used for few examples by Yang et al.
2021), which is what a discriminant supposes. The product of two g is Bhattacharyya's coefficient of
the features as distributions, and their distance Hellinger's (Arandjelovic and Zisserman 2012).
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

_SMALLEST = 1e-12
"""Of a unit feature; a smaller one, whose root would have too steep a slope, counts as this."""


def are_compared_by_roots(keys: Float[Tensor, "examples key_dim"]) -> bool:
    """Whether none of these features is negative."""
    return bool((keys >= 0).all())


def unit_roots(units: Float[Tensor, "batch key_dim"]) -> Float[Tensor, "batch key_dim"]:
    """g of features at unit length; of a negative number the root of its size, with its sign.

    Example:
        >>> unit_roots(normalize(torch.tensor([[4.0, 1.0, 0.0], [-4.0, 0.0, 12.0]])))
        tensor([[ 0.8944,  0.4472,  0.0000],
                [-0.5000,  0.0000,  0.8660]])
    """
    return normalize(units.sign() * units.abs().clamp(min=_SMALLEST).sqrt(), dim=1)
