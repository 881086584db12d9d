"""The linear map under which examples of a class differ as much in every direction.

    W = (S + shrinkage tr(S) / d I)^(-1/2),   S = 1/n sum_i (f_i - m_{y_i}) (f_i - m_{y_i})^T

with the means m_y of the classes: the within-class covariance S of linear discriminant analysis
(Fisher 1936), one for all classes, as in Lee et al. 2018 and Hayes and Kanan 2020. A cosine of W f
is then one of the Mahalanobis kind.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rarememory.checks import check_positive
from rarememory.classifier.labels import Label


def whitening(
    features: Float[Tensor, "examples dim"], labels: Sequence[Label], shrinkage: float
) -> Float[Tensor, "dim dim"]:
    """The W of these examples, symmetric and positive definite.

    Raises:
        ValueError: no class has two examples that differ, or the shrinkage is not above 0.

    Example:
        >>> features = torch.tensor([[0.0, 3.0], [0.0, -3.0], [9.0, 3.0], [9.0, -3.0]])
        >>> whitening(features, ["kea", "kea", "weka", "weka"], 0.1)
        tensor([[1.4907, 0.0000],
                [0.0000, 0.3253]])
    """
    check_positive("shrinkage", shrinkage)
    wide = features.double()
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    classes = torch.tensor([numbers[label] for label in labels], device=features.device)
    sums = wide.new_zeros(len(numbers), wide.shape[1]).index_add_(0, classes, wide)
    apart = wide - (sums / classes.bincount().unsqueeze(1))[classes]
    spread, directions = torch.linalg.eigh(apart.T @ apart / max(1, len(apart)))
    if not spread.sum() > 0:
        raise ValueError(
            f"{len(labels)} examples of {len(numbers)} classes do not differ within any class: "
            "give several different examples of most classes"
        )
    lengths = (spread.clamp(min=0) + shrinkage * spread.mean()).rsqrt()
    matrix: Tensor = (directions * lengths) @ directions.T
    return matrix.to(features.dtype)
