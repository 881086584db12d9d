"""The metric of a discriminant: how much each direction counts, found from the examples themselves.

Where some class has two examples, P is the inverse of the covariance within classes, shrunken as
much as the examples that are left out one at a time are answered best with. Where none has, half of
the variance of the examples is taken for that within classes, the same in all directions, and P
weighs an axis by the share of its variance that is then left for the classes (the posterior mean of
a class in probabilistic linear discriminant analysis, Ioffe 2006), with an oracle-approximating
shrinkage (Chen et al. 2010).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from rarememory.classifier.class_scores import ClassScores
from rarememory.classifier.leave_one_out import left_out_products

SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 0.6, 0.9, 0.97)
SCALES = tuple(2.0 ** (i / 2) for i in range(2, 14))
"""Of scores, which are about as great as cosines."""
ONE_SHOT_SCALE = 16.0
"""The scale that is found for classes of few examples, for where there is nothing to find it by."""

CELLS = 2**24
"""Leave-one-out scores at once: those of so many examples and all classes are 64 MiB."""


class Examples(NamedTuple):
    """Examples class by class, in an order that does not depend on where they are remembered.

    Attributes:
        rows: features, in float32 at least.
        samples: which of the keys each is.
        places: the place of each one's class.
        classes: integers of the classes, ascending.
        counts: examples of each class.
    """

    rows: Float[Tensor, "examples key_dim"]
    samples: Int64[Tensor, " examples"]
    places: Int64[Tensor, " examples"]
    classes: Int64[Tensor, " classes"]
    counts: Float[Tensor, " classes"]

    @classmethod
    def of(cls, keys: Tensor, values: Int64[Tensor, " examples"]) -> "Examples":
        """The same of keys in any order and float dtype."""
        # The first coordinate orders the examples of a class, so that sums are rounded alike; and
        # some sum of all coordinates those that have it in common, as rows of a table often do.
        wide = keys.to(torch.promote_types(keys.dtype, torch.float32))
        parts = torch.arange(1, keys.shape[1] + 1, device=keys.device).to(wide.dtype).sin()
        samples = (wide @ parts).argsort(stable=True)
        samples = samples[keys[samples, 0].argsort(stable=True)]
        samples = samples[values[samples].argsort(stable=True)].clone()
        rows = wide[samples]
        classes, places, counts = values[samples].unique(return_inverse=True, return_counts=True)
        return cls(rows, samples, places, classes, counts.to(rows.dtype))

    def class_means(self, rows: Float[Tensor, "examples dim"]) -> Float[Tensor, "classes dim"]:
        """The mean of each class of rows that belong to the examples."""
        sums = rows.new_zeros(len(self.counts), rows.shape[1]).index_add_(0, self.places, rows)
        return sums / self.counts.unsqueeze(1)

    def some(self, cells: int = CELLS) -> Int64[Tensor, " some"]:
        """Places of the examples that are left out: all, or as many as can be, evenly spaced."""
        most, count = max(1, cells // len(self.counts)), len(self.rows)
        if count <= most:
            return torch.arange(count, device=self.rows.device)
        return torch.linspace(0, count - 1, most, device=self.rows.device).long()


@contextmanager
def fitting(device: torch.device) -> Iterator[None]:
    """Without gradient and autocast; outside inference mode, where tensors are not changed."""
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield


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


class FittedMetric(NamedTuple):
    """What examples are compared in with the means of classes.

    Attributes:
        precision: along the axes of a `Spread`.
        outside: in every direction that no axis covers.
        scoring: of rows and class means; where the covariance within classes is not known, shares
            of the variance along the axes that are left for the classes.
        shrinkage: of that covariance; None where it is not known.
        scale: what a score is multiplied with.
        left_out: scores of examples for every class, without themselves; None where no class has
            two examples.
    """

    precision: Float[Tensor, " axes"]
    outside: float
    scoring: ClassScores | Float[Tensor, " axes"]
    shrinkage: float | None
    scale: float
    left_out: Float[Tensor, "examples classes"] | None


def fitted_metric(
    spread: Spread,
    some: Int64[Tensor, " some"],
    shrinkage: float | None = None,
) -> FittedMetric:
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
    weights = class_weights(labels, counts)
    # The same, with 0 for an example that is alone in its class.
    of_rows = weights.new_zeros(len(rows)).masked_scatter(judged, weights)
    squares = (rows - spread.means[places]).square()
    place = len(SCALES) // 2

    def tried(one: float) -> tuple[float, FittedMetric]:
        nonlocal place
        precision = 1 / ((1 - one) * spread.variances + one * level)
        products = left_out_products(
            rows, places, spread.means, counts, precision, one, spread.degrees, squares
        )
        scoring = ClassScores.of(
            spread.means.square() @ precision,
            counts,
            of_rows @ products.rows.squeeze(1).clamp(min=0).sqrt(),
            products.own_variance(places, counts, of_rows),
        )
        scores = products.scores(places, counts, scoring)
        found = scores[judged]
        loss, place = best_scale(found, labels, weights, SCALES, place)
        accuracy = (weights * (found.argmax(1) == labels)).sum().item()
        outside = 1 / (one * level.item())
        return round(accuracy, 3) - 0.02 * loss, FittedMetric(
            precision, outside, scoring, one, SCALES[place], scores
        )

    candidates = SHRINKAGES if shrinkage is None else (shrinkage,)
    return max(map(tried, candidates), key=lambda one: one[0])[1]


def class_weights(
    places: Int64[Tensor, " examples"], counts: Float[Tensor, " classes"]
) -> Float[Tensor, " examples"]:
    """What each example counts, so that all classes count the same; the sum is 1."""
    weights = 1 / counts[places]
    return weights / weights.sum()


def squares_outside(
    x: Float[Tensor, "batch key_dim"], rows: Float[Tensor, "batch axes"], found: FittedMetric
) -> Float[Tensor, " batch"] | float:
    """The squared length, in the metric, of the part of x that no axis covers.

    Args:
        x: centred features.
        rows: the same along the axes, each times the root of its precision.
        found: the metric.
    """
    if x.shape[1] == rows.shape[1]:
        return 0.0
    along = rows.square() @ (1 / found.precision)
    return found.outside * (x.square().sum(1) - along).clamp(min=0)


def best_scale(
    scores: Float[Tensor, "examples classes"],
    labels: Int64[Tensor, " examples"],
    weights: Float[Tensor, " examples"],
    scales: tuple[float, ...],
    place: int,
) -> tuple[float, int]:
    """The least loss of the scales, and its place; the loss is convex, so the search goes downhill.

    It begins at `place`, best that of similar scores.
    """

    @cache
    def loss(place: int) -> float:
        losses = cross_entropy(scales[place] * scores, labels, reduction="none")
        return (weights * losses).sum().item()

    while place + 1 < len(scales) and loss(place + 1) < loss(place):
        place += 1
    while place and loss(place - 1) <= loss(place):
        place -= 1
    return loss(place), place


def _one_shot_metric(spread: Spread) -> FittedMetric:
    shares, outside = _one_shot_shares(spread.variances, len(spread.basis), len(spread.counts))
    precision = shares / (1 + shares)
    return FittedMetric(precision, outside, shares, None, ONE_SHOT_SCALE, None)


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
