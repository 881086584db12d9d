"""The metric of a discriminant: how much each direction counts, found from the examples themselves.

Where some class has two examples, P is the inverse of the covariance within classes, shrunken as
much as the examples that are left out one at a time are answered best with. Where none has, half of
the variance of the examples is taken for that within classes, the same in all directions, and P
weighs an axis by the share of its variance that is then left for the classes (the posterior mean of
a class in probabilistic linear discriminant analysis, Ioffe 2006), with an oracle-approximating
shrinkage (Chen et al. 2010).
"""

from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from rarememory.classifier.leave_one_out import leave_one_out_cosines

SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 0.6, 0.9, 0.97)
SCALES = tuple(2.0 ** (i / 2) for i in range(2, 14))
ONE_SHOT_SCALE = 16.0
"""The scale that is found for classes of few examples, for where there is nothing to find it by."""


class Spread(NamedTuple):
    """Centred examples along the principal axes of their covariance within classes.

    Attributes:
        rows: examples.
        places: the place of each one's class.
        means: of the classes.
        counts: examples of each class.
        basis: the axes, orthonormal.
        variances: along them; of the class means where no class has two examples.
        degrees: of freedom of the covariance; 0 where no class has two examples.
    """

    rows: Float[Tensor, "examples axes"]
    places: Int64[Tensor, " examples"]
    means: Float[Tensor, "classes axes"]
    counts: Float[Tensor, " classes"]
    basis: Float[Tensor, "key_dim axes"]
    variances: Float[Tensor, " axes"]
    degrees: int

    @classmethod
    def of(
        cls,
        rows: Float[Tensor, "examples key_dim"],
        places: Int64[Tensor, " examples"],
        means: Float[Tensor, "classes key_dim"],
        counts: Float[Tensor, " classes"],
    ) -> "Spread":
        """The same of examples along the coordinates of the features."""
        degrees = int((counts - 1).sum())
        spread = rows - means[places] if degrees else means
        basis, variances = _principal_axes(rows, spread, max(1, degrees or len(counts) - 1))
        return cls(rows @ basis, places, means @ basis, counts, basis, variances, degrees)

    @property
    def level(self) -> Float[Tensor, ""]:
        """The mean variance of all dimensions."""
        return self.variances.sum() / len(self.basis)


class CosineMetric(NamedTuple):
    """What a cosine is measured in.

    Attributes:
        precision: along the axes of a `Spread`.
        outside: in every direction that no axis covers.
        shares: of the variance along the axes that is left for the classes; None where the
            covariance within classes is known.
        shrinkage: of that covariance; None where it is not known.
        scale: what a cosine is multiplied with.
        left_out: cosines of examples with the mean of every class, without themselves; None where
            no class has two examples.
    """

    precision: Float[Tensor, " axes"]
    outside: float
    shares: Float[Tensor, " axes"] | None
    shrinkage: float | None
    scale: float
    left_out: Float[Tensor, "examples classes"] | None


def fitted_metric(
    spread: Spread, some: Int64[Tensor, " some"], shrinkage: float | None = None
) -> CosineMetric:
    """The metric with which the examples, each left out once, are answered best.

    Every class has the same weight. Accuracy decides, and the likelihood among those that are about
    as accurate.

    Args:
        spread: of the examples.
        some: the examples that are left out.
        shrinkage: of the covariance, in (0, 1]; one of `SHRINKAGES` is chosen if None.
    """
    level = spread.level
    if not spread.degrees or not level > 0:
        return _one_shot_metric(spread)
    rows, places, counts = spread.rows[some], spread.places[some], spread.counts
    judged = counts[places] > 1
    labels = places[judged]
    weights = 1 / counts[labels]
    weights = weights / weights.sum()

    def tried(one: float) -> tuple[float, CosineMetric]:
        precision = 1 / ((1 - one) * spread.variances + one * level)
        cosines = leave_one_out_cosines(
            rows, places, spread.means, counts, precision, one, spread.degrees
        )
        found = cosines[judged]
        loss, scale = _best_scale(found, labels, weights)
        accuracy = (weights * (found.argmax(1) == labels)).sum().item()
        outside = 1 / (one * level.item())
        return round(accuracy, 3) - 0.02 * loss, CosineMetric(
            precision, outside, None, one, scale, cosines
        )

    candidates = SHRINKAGES if shrinkage is None else (shrinkage,)
    return max(map(tried, candidates), key=lambda one: one[0])[1]


def _best_scale(
    cosines: Float[Tensor, "examples classes"],
    labels: Int64[Tensor, " examples"],
    weights: Float[Tensor, " examples"],
) -> tuple[float, float]:
    """The least loss of the scales, and its scale: the loss is convex, so bisection finds it."""

    @cache
    def loss(place: int) -> float:
        losses = cross_entropy(SCALES[place] * cosines, labels, reduction="none")
        return (weights * losses).sum().item()

    low, high = 0, len(SCALES) - 1
    while low < high:
        middle = (low + high) // 2
        if loss(middle + 1) < loss(middle):
            low = middle + 1
        else:
            high = middle
    return loss(low), SCALES[low]


def _one_shot_metric(spread: Spread) -> CosineMetric:
    shares, outside = _one_shot_shares(spread.variances, len(spread.basis), len(spread.counts))
    return CosineMetric(shares / (1 + shares), outside, shares, None, ONE_SHOT_SCALE, None)


def _one_shot_shares(variances: Tensor, dim: int, n_classes: int) -> tuple[Tensor, float]:
    """Shares along the axes and precision outside them, for classes of one example each."""
    level = variances.sum() / dim
    if not level > 0:
        return torch.ones_like(variances), 0.5
    total, squares = variances.sum(), variances.square().sum()
    excess = (n_classes - 2 / dim) * (squares - total**2 / dim).clamp(min=1e-12)
    shrinkage = (((1 - 2 / dim) * squares + total**2) / excess).clamp(max=1.0)
    noise = level / 2
    shrunken = (1 - shrinkage) * variances + shrinkage * level

    def share(variance: Tensor) -> Tensor:
        signal = (variance - noise).clamp(min=0.02 * level) / noise
        return signal / (1 + signal)

    outside = share(shrinkage * level).item()
    return share(shrunken), outside / (1 + outside)


def _principal_axes(rows: Tensor, spread: Tensor, degrees: int) -> tuple[Tensor, Tensor]:
    """Orthonormal axes that cover the rows, principal ones of the spread; and its variances."""
    if len(rows) >= rows.shape[1]:
        variances, axes = torch.linalg.eigh(spread.T @ spread / degrees)
        return axes, variances.clamp(min=0)
    # Fewer rows than dimensions: within their span.
    _, lengths, directions = torch.linalg.svd(rows, full_matrices=False)
    cover = directions[lengths > 1e-5 * lengths.max()].T
    inside = spread @ cover
    variances, axes = torch.linalg.eigh(inside.T @ inside / degrees)
    return cover @ axes, variances.clamp(min=0)
