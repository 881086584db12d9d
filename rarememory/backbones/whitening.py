"""Whitening: a linear map that gives the classes the same variance in every direction.

    W = (S + shrinkage tr(S) / d I)^(-1/2),   S = 1/n sum_i (f_i - m_{y_i}) (f_i - m_{y_i})^T

with the means m_y of the classes: the within-class covariance S of linear discriminant analysis
(Fisher 1936), shared by all classes, as in Lee et al. 2018 and Hayes and Kanan 2020.
"""

from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rarememory.base.validation import check_positive


def whitening(
    features: Float[Tensor, "examples dim"], labels: Sequence[Hashable], shrinkage: float
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
    rows = features.double()
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    classes = torch.tensor([numbers[label] for label in labels], device=features.device)
    sums = rows.new_zeros(len(numbers), rows.shape[1]).index_add_(0, classes, rows)
    centered = rows - (sums / classes.bincount().unsqueeze(1))[classes]
    variances, directions = torch.linalg.eigh(centered.T @ centered / max(1, len(rows)))
    if not variances.sum() > 0:
        raise ValueError(
            f"{len(labels)} examples of {len(numbers)} classes do not differ within any class: "
            "give several different examples of most classes"
        )
    scales = (variances.clamp(min=0) + shrinkage * variances.mean()).rsqrt()
    matrix: Tensor = (directions * scales) @ directions.T
    return matrix.to(features.dtype)


@torch.no_grad()
def append_projection(encoder: nn.Module, matrix: Float[Tensor, "key_dim key_dim"]) -> None:
    """Multiply the map into the last linear layer of an encoder, in place.

    Where the encoder returned f, it returns matrix @ f, in the same time.

    Raises:
        ValueError: the encoder has no linear layer, or its last one is of another width.

    Example:
        >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> before = encoder(torch.ones(1, 2, 2))
        >>> append_projection(encoder, 2 * torch.eye(2))
        >>> torch.equal(encoder(torch.ones(1, 2, 2)), 2 * before)
        True
    """
    layers = [module for module in encoder.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError(f"{type(encoder).__name__} has no linear layer for the map to be part of")
    last = layers[-1]
    if last.out_features != len(matrix):
        raise ValueError(
            f"the last linear layer is {last.out_features} wide, and the map is for {len(matrix)}"
        )
    last.weight.copy_(matrix @ last.weight)
    if last.bias is not None:
        last.bias.copy_(matrix @ last.bias)
