"""Normal densities with a covariance of each class's own, as far as there are samples to know it.

    p(x | c) = t(x; m_c, W_c + strength S)        S = (1 - a) W / degrees + a level I

W_c is the scatter of class c about its mean m_c, W the sum of all of them, level the mean variance
of a column. The unknown covariance of a class has an inverse Wishart prior that is as strong as
`strength` samples of the pooled covariance S, shrunken by a; what is left when it is integrated out
is Student's t (Geisser 1964, Bayesian quadratic discriminant analysis). So classes that are wide,
or long in another direction, get the room they take; with a great strength all have the same
covariance, as in linear discriminant analysis.

Strength, shrinkage and what the logarithms of the densities are multiplied with are those of
greatest likelihood of the samples that are left out one at a time, each class with the same weight.
Without a sample x the mean of its class is as far from it as r n / (n - 1), r = x - m_c, and every
scatter with W_c in it loses r r^T n / (n - 1), so its inverse changes by one rank (Sherman and
Morrison 1950). Counts and determinants stay as they are: they would be those of n - 1 samples for
the own class alone, which of few samples with many columns says by itself what class that is.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from rarememory.classifier.metric import best_scale, class_weights

_STRENGTHS = (1.0, 4.0, 16.0, 64.0, 256.0, 4096.0)
_SHRINKAGES = (0.01, 0.1, 0.3, 0.6, 0.9)
_SCALES = tuple(2.0 ** (i / 2) for i in range(-14, 4))
"""Of the logarithms of densities; with many dimensions they are overconfident."""
_SMALLEST = 1e-6
_COST, _NUMBERS = 2**29, 2**22
"""Multiplications, and differences held, for one strength and shrinkage; beyond them nothing is
fitted."""


@dataclass(frozen=True)
class Quadratic:
    """Normal densities of the classes.

    Attributes:
        means: of the classes.
        roots: of the inverse of W_c + strength S, for each class.
        constants: logarithms of what multiplies the densities.
        counts: samples of each class.
        strength: of the prior, in samples.
        scale: of the logits.
        left_out: logits of some samples as if they had not been seen.

    Example:
        >>> along = torch.linspace(-1, 1, 6, dtype=torch.double)
        >>> rows = torch.cat([torch.stack([along, 0.1 * along**2], 1), torch.eye(2).double()])
        >>> classes = torch.tensor([0] * 6 + [1] * 2)
        >>> found = fit_quadratic(rows, classes, torch.arange(8))
        >>> found.logits(torch.tensor([[2.0, 0.1], [0.4, 0.6]], dtype=torch.double)).argmax(1)
        tensor([0, 1])
    """

    means: Float[Tensor, "classes columns"]
    roots: Float[Tensor, "classes columns columns"]
    constants: Float[Tensor, " classes"]
    counts: Float[Tensor, " classes"]
    strength: float
    scale: float
    left_out: Float[Tensor, "some classes"]

    def logits(self, rows: Float[Tensor, "queries columns"]) -> Float[Tensor, "queries classes"]:
        """Of every class."""
        # Class by class, because all of them at once are as many rows for each class.
        squares = [
            ((rows - mean) @ root.T).square().sum(1)
            for mean, root in zip(self.means, self.roots, strict=True)
        ]
        densities = _log_densities(
            torch.stack(squares, 1), self.constants, self.counts, self.strength, rows.shape[1]
        )
        return self.scale * densities


def fit_quadratic(
    rows: Float[Tensor, "samples columns"],
    classes: Int64[Tensor, " samples"],
    some: Int64[Tensor, " some"],
) -> Quadratic | None:
    """The densities of these samples.

    None where all samples of a class are equal, or where there are so many columns and classes that
    it would take long.

    Args:
        rows: of the samples.
        classes: 0, 1, ..., each with a sample, and one of them with two.
        some: the samples that are left out.

    Example:
        >>> rows = torch.eye(2, dtype=torch.double).repeat(3, 1)
        >>> fit_quadratic(rows, torch.tensor([0, 1] * 3), torch.arange(6)) is None
        True
    """
    scatters = _Scatters.of(rows, classes)
    n_classes, columns = scatters.means.shape
    multiplications = n_classes * columns**2 * (len(some) + columns)
    if multiplications > _COST or n_classes * columns * len(some) > _NUMBERS:
        return None
    if not scatters.level > 1e-12 * rows.square().mean():
        return None
    several = scatters.counts[classes[some]] > 1
    labels = classes[some][several]
    weights = class_weights(labels, scatters.counts)
    best, place = None, len(_SCALES) // 2
    for shrinkage in _SHRINKAGES:
        for strength in _STRENGTHS:
            roots, constants = scatters.roots(strength, shrinkage)
            left_out = _left_out(
                rows[some], classes[some], scatters, roots, constants, strength, shrinkage
            )
            loss, place = best_scale(left_out[several], labels, weights, _SCALES, place)
            if best is None or loss < best[0]:
                scale = _SCALES[place]
                found = scatters.means, roots, constants, scatters.counts, strength, scale
                best = loss, Quadratic(*found, scale * left_out)
    assert best is not None
    return best[1]


class _Scatters(NamedTuple):
    """Means of the classes, and the scatter about them.

    Attributes:
        means: of the classes.
        of_classes: the scatter of each.
        pooled: the covariance within classes.
        level: the mean variance of a column within classes.
        counts: samples of each class.
        degrees: of freedom of the pooled covariance.
    """

    means: Float[Tensor, "classes columns"]
    of_classes: Float[Tensor, "classes columns columns"]
    pooled: Float[Tensor, "columns columns"]
    level: Float[Tensor, ""]
    counts: Float[Tensor, " classes"]
    degrees: int

    @classmethod
    def of(
        cls, rows: Float[Tensor, "samples columns"], classes: Int64[Tensor, " samples"]
    ) -> "_Scatters":
        """Those of these samples."""
        parts = [rows[classes == label] for label in range(int(classes.max()) + 1)]
        means = torch.stack([part.mean(0) for part in parts])
        residuals = [part - mean for part, mean in zip(parts, means, strict=True)]
        of_classes = torch.stack([part.T @ part for part in residuals])
        degrees = max(1, len(rows) - len(means))
        pooled = of_classes.sum(0) / degrees
        counts = classes.bincount().to(rows)
        return cls(means, of_classes, pooled, pooled.diagonal().mean(), counts, degrees)

    def roots(
        self, strength: float, shrinkage: float
    ) -> tuple[Float[Tensor, "classes columns columns"], Float[Tensor, " classes"]]:
        """The inverse of W_c + strength S as R^T R, and -log |W_c + strength S| / 2."""
        prior = (1 - shrinkage) * self.pooled
        prior.diagonal().add_(shrinkage * self.level)
        lower = torch.linalg.cholesky(self.of_classes + strength * prior)
        unit = torch.eye(len(prior), dtype=prior.dtype, device=prior.device)
        roots = torch.linalg.solve_triangular(lower, unit, upper=False)
        return roots, -lower.diagonal(dim1=1, dim2=2).log().sum(1)


def _left_out(
    rows: Float[Tensor, "some columns"],
    classes: Int64[Tensor, " some"],
    scatters: _Scatters,
    roots: Float[Tensor, "classes columns columns"],
    constants: Float[Tensor, " classes"],
    strength: float,
    shrinkage: float,
) -> Float[Tensor, "some classes"]:
    """Logarithms of the densities of samples, each left out; one alone in its class is not."""
    n = scatters.counts[classes]
    further = n / (n - 1).clamp(min=1)
    own = one_hot(classes, len(scatters.counts)).to(rows)
    residuals = (rows - scatters.means[classes]) @ roots.mT
    apart = rows @ roots.mT - (scatters.means.unsqueeze(1) @ roots.mT)
    is_own = own.T.unsqueeze(2) > 0
    apart = torch.where(is_own, further.unsqueeze(1) * residuals, apart)
    lost = own + strength * (1 - shrinkage) / scatters.degrees
    lost = (further * (n > 1)).unsqueeze(1) * lost
    change = (1 - lost * residuals.square().sum(2).T).clamp(min=_SMALLEST)
    squares = apart.square().sum(2).T + lost * (residuals * apart).sum(2).T.square() / change
    return _log_densities(squares, constants, scatters.counts, strength, rows.shape[1])


def _log_densities(
    squares: Tensor, constants: Tensor, counts: Tensor, strength: float, columns: int
) -> Tensor:
    """Student's t of squared distances, but for a constant of all classes."""
    share, half = counts / (counts + 1), (counts + strength + 1) / 2
    constants = constants + torch.lgamma(half + columns / 2) - torch.lgamma(half)
    constants = constants + columns / 2 * share.log()
    # Of a row that is so far that its square is none, all classes are as far.
    squares = squares.clamp(max=torch.finfo(squares.dtype).max)
    return constants - (half + columns / 2) * torch.log1p(share * squares)
