"""Square roots of features that are hardly ever negative, as those after a ReLU.

    g(f)_d = sign(f_d) sqrt(|f_d| / sum |f|)

Such features are mostly small, and a few of them large: a cosine is decided by these few. Their
square roots are nearer to a normal distribution (Tukey 1977; used for few examples by Yang et al.
2021), which a discriminant supposes. Of features without a negative number the product of two g is
Bhattacharyya's coefficient of the features as distributions, and their distance Hellinger's
(Arandjelovic and Zisserman 2012).
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

_FEW_COLUMNS = 64
"""Columns of tables are no more as a rule, and are answered as often without roots."""
_NEGATIVE = 0.01
"""Share of the squared length of all examples that negative numbers may have."""
_SMALLEST = 1e-8
"""The size of a number of a unit feature that is nearer to 0, but not 0: the slope of its root
would be too steep for a gradient. The library in C++ has the same."""


def are_compared_by_roots(keys: Float[Tensor, "examples key_dim"]) -> bool:
    """Whether these features are many, and negative numbers have hardly a part in them.

    Example:
        >>> import torch
        >>> keys = normalize(torch.rand(5, 100), dim=1)
        >>> are_compared_by_roots(keys), are_compared_by_roots(keys - 0.1)
        (True, False)
        >>> are_compared_by_roots(keys[:, :20])
        False
    """
    if keys.shape[1] <= _FEW_COLUMNS:
        return False
    return bool(keys.clamp(max=0).square().sum() <= _NEGATIVE * keys.square().sum())


def unit_roots(units: Float[Tensor, "batch key_dim"]) -> Float[Tensor, "batch key_dim"]:
    """g of features at unit length.

    Example:
        >>> import torch
        >>> unit_roots(normalize(torch.tensor([[4.0, 1.0, 0.0], [-4.0, 0.0, 12.0]])))
        tensor([[ 0.8944,  0.4472,  0.0000],
                [-0.5000,  0.0000,  0.8660]])
    """
    return normalize(units.sign() * units.abs().clamp(min=_SMALLEST).sqrt(), dim=1)
