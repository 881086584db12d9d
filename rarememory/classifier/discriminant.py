"""The fitted reader: class means in a metric that is found out from the remembered examples.

    x = unit(unit(f) - mu) - c                  features, centred by the mean of the class means
    P = ((1 - a) S + a tr(S) / d I)^-1          S: covariance within classes, a: its shrinkage
    z_c = t cos_P(x, m_c) + D_c . x / |x|_P + b_c

A linear discriminant (Fisher 1936) with a shrunken covariance (Friedman 1989), as a cosine, so that
a class of one example and a class of many are on one scale. The shrinkage a and the scale t are
those with which the examples that are left out one at a time are answered best
(`rarememory.classifier.leave_one_out`); D and b are `rarememory.classifier.refinement`. There is
nothing to set and no example is held out.

Where no class has two examples, S cannot be known: half of the variance of the examples is taken
for that within classes, the same in all directions, and P weighs an axis by the share of its
variance that is then left for the classes (the posterior mean of a class in probabilistic linear
discriminant analysis, Ioffe 2006), with an oracle-approximating shrinkage (Chen et al. 2010).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from rarememory.classifier.leave_one_out import leave_one_out_cosines
from rarememory.classifier.refinement import refined

SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 0.6, 0.9, 0.97)
SCALES = tuple(2.0 ** (i / 2) for i in range(2, 14))
ONE_SHOT_SCALE = 16.0
"""The scale that is found for classes of few examples, for where there is nothing to find it by."""
_CELLS = 2**24
"""Leave-one-out logits at once: those of so many examples and all classes are 64 MiB."""
_FOREIGN_CLASSES = 256
"""Classes that are left out whole, one after the other."""
_REFINED = 2**30
"""Multiplications of a refinement's step; beyond them the class means alone answer."""


@dataclass(frozen=True)
class LeftOut:
    """What is said of remembered examples that are left out, one at a time.

    Attributes:
        logits: of every class.
        unrefined: the same without the refinement, which has seen the examples.
        samples: which of the keys each example is.
        classes: the place of each example's own class.
        several: whether its class has other examples.
        rows: the examples, at unit length in the metric; class by class.
        scale: what a cosine is multiplied with.
        foreign: the best logit of another class for examples whose own class is left out, and with
            it its part in the mean; of examples of at most 256 classes, none of fewer than three.
        foreign_classes: the places of their classes.
    """

    logits: Float[Tensor, "examples classes"]
    unrefined: Float[Tensor, "examples classes"]
    samples: Int64[Tensor, " examples"]
    classes: Int64[Tensor, " examples"]
    several: Bool[Tensor, " examples"]
    rows: Float[Tensor, "examples axes"]
    scale: float
    foreign: Float[Tensor, " some"]
    foreign_classes: Int64[Tensor, " some"]

    @property
    def of_others(self) -> Float[Tensor, "examples classes"]:
        """The logits, -inf for each example's own class."""
        return self.logits.scatter(1, self.classes.unsqueeze(1), -torch.inf)


@dataclass(frozen=True)
class Discriminant:
    """A fitted reader of remembered examples.

    Attributes:
        classes: integers of the classes, ascending.
        mean: of the class means of unit features.
        center: the same after centring and scaling to unit length.
        metric: orthonormal axes, each times the root of its precision.
        precision: along the axes.
        outside: precision in every direction that no axis covers.
        weights: of a row at unit length in the metric.
        bias: of each class.
        change: of the weights, by refinement; None without it.
        more: bias, by refinement.
        left_out: what is said of the examples it was fitted to.

    Example:
        >>> keys = normalize(torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.1, 1.0]]))
        >>> found = fit_discriminant(keys, torch.tensor([3, 3, 7]))
        >>> found.classes, found.logits(torch.tensor([[5.0, 1.0]])).argmax(1)
        (tensor([3, 7]), tensor([0]))
    """

    classes: Int64[Tensor, " classes"]
    mean: Float[Tensor, " key_dim"]
    center: Float[Tensor, " key_dim"]
    metric: Float[Tensor, "key_dim axes"]
    precision: Float[Tensor, " axes"]
    outside: float
    weights: Float[Tensor, "axes classes"]
    bias: Float[Tensor, " classes"]
    change: Float[Tensor, "axes classes"] | None
    more: Float[Tensor, " classes"]
    left_out: LeftOut

    def rows(self, features: Float[Tensor, "batch key_dim"]) -> Float[Tensor, "batch axes"]:
        """Features along the axes, scaled by the metric, to unit length in it."""
        x = normalize(features.to(self.mean.dtype), dim=1) - self.mean
        x = normalize(x, dim=1) - self.center
        rows = x @ self.metric
        squares = rows.square().sum(1)
        if self.metric.shape[1] < self.metric.shape[0]:
            along = rows.square() @ (1 / self.precision)
            squares = squares + self.outside * (x.square().sum(1) - along).clamp(min=0)
        return rows * squares.clamp(min=1e-12).rsqrt().unsqueeze(1)

    def logits(self, features: Float[Tensor, "batch key_dim"]) -> Float[Tensor, "batch classes"]:
        """The z of every class."""
        rows = self.rows(features)
        base = torch.addmm(self.bias, rows, self.weights)
        if self.change is None:
            return base
        return _levelled(base, torch.addmm(base + self.more, rows, self.change))


def fit_discriminant(
    keys: Float[Tensor, "examples key_dim"], values: Int64[Tensor, " examples"]
) -> Discriminant:
    """The reader of these examples; the same for the same examples, in whatever order they are.

    Args:
        keys: at unit length, in any float dtype.
        values: integers of their classes, of at least two different ones.
    """
    # The first coordinate orders the examples of a class, so that sums are rounded alike wherever
    # their slots are. Outside inference mode, because the refinement changes a tensor in place.
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(keys.device.type, enabled=False),
    ):
        order = keys[:, 0].argsort(stable=True)
        order = order[values[order].argsort(stable=True)].clone()
        rows = keys[order].to(torch.promote_types(keys.dtype, torch.float32))
        classes, places, counts = values[order].unique(return_inverse=True, return_counts=True)
        return _fitted(rows, order, places, classes, counts.to(rows.dtype))


def _fitted(
    rows: Tensor, samples: Tensor, places: Tensor, classes: Tensor, counts: Tensor
) -> Discriminant:
    keys, key_means = rows, _class_means(rows, places, counts)
    mean = key_means.mean(0)
    rows = normalize(rows - mean, dim=1)
    means = _class_means(rows, places, counts)
    center = means.mean(0)
    rows, means = rows - center, means - center
    several = counts[places] > 1
    degrees = int(several.sum()) - int((counts > 1).sum())
    spread = rows - means[places] if degrees else means
    basis, variances = _principal_axes(rows, spread, max(1, degrees or len(counts) - 1))
    along, means = rows @ basis, means @ basis
    level = variances.sum() / rows.shape[1]
    some = _evenly_spaced(len(rows), max(1, _CELLS // len(counts)), rows.device)
    shares = None
    if degrees and level > 0:
        cosines, shrinkage, scale = _best_shrinkage(
            along[some], places[some], means, counts, variances, level, degrees
        )
        precision = 1 / ((1 - shrinkage) * variances + shrinkage * level)
        outside = 1 / (shrinkage * level.item())
    else:
        shares, outside = _one_shot_shares(variances, rows.shape[1], len(counts))
        scale = ONE_SHOT_SCALE
        precision = shares / (1 + shares)
    metric = precision.sqrt()
    units = normalize(along * metric, dim=1)
    prototypes, bias = _prototypes(means * metric, shares)
    if shares is not None:
        cosines = units[some] @ prototypes + bias
    weights, bias = scale * prototypes, scale * bias
    # Left out of the means, and not of the refinement, which changes little.
    unrefined = logits = scale * cosines
    change, more = None, torch.zeros_like(counts)
    if degrees and units.numel() * len(counts) <= _REFINED:
        # Scaled like the logits, so that one penalty fits memories of every scale.
        change, more = refined(scale**0.5 * units, units @ weights, places, counts)
        change = scale**0.5 * change
        logits = _levelled(logits, logits + units[some] @ change + more)
    metric = basis * metric
    foreign = _foreign_scores(keys @ metric, places, key_means @ metric, shares)
    left_out = LeftOut(
        logits,
        unrefined,
        samples[some],
        places[some],
        several[some],
        units[some],
        scale,
        scale * foreign[0],
        foreign[1],
    )
    return Discriminant(
        classes,
        mean,
        center,
        metric,
        precision,
        outside,
        weights,
        bias,
        change,
        more,
        left_out,
    )


def _levelled(base: Tensor, refined_logits: Tensor) -> Tensor:
    """Refined logits, their greatest as great as that of the base.

    Refinement sees no strangers: it says which class it is, and not how near.
    """
    return refined_logits + (base.amax(1, keepdim=True) - refined_logits.amax(1, keepdim=True))


def _class_means(rows: Tensor, places: Tensor, counts: Tensor) -> Tensor:
    sums = rows.new_zeros(len(counts), rows.shape[1]).index_add_(0, places, rows)
    return sums / counts.unsqueeze(1)


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


def _best_shrinkage(
    rows: Tensor,
    places: Tensor,
    means: Tensor,
    counts: Tensor,
    variances: Tensor,
    level: Tensor,
    degrees: int,
) -> tuple[Tensor, float, float]:
    """Leave-one-out cosines, shrinkage and scale, of the shrinkage that answers best."""
    judged = counts[places] > 1
    labels = places[judged]
    weights = 1 / counts[labels]
    weights = weights / weights.sum()
    best = None
    for shrinkage in SHRINKAGES:
        precision = 1 / ((1 - shrinkage) * variances + shrinkage * level)
        cosines = leave_one_out_cosines(rows, places, means, counts, precision, shrinkage, degrees)
        found = cosines[judged]
        losses = [
            (weights * cross_entropy(scale * found, labels, reduction="none")).sum().item()
            for scale in SCALES
        ]
        loss = min(losses)
        accuracy = (weights * (found.argmax(1) == labels)).sum().item()
        # Accuracy decides, and the likelihood among those that are about as accurate.
        merit = round(accuracy, 3) - 0.02 * loss
        if best is None or merit > best[0]:
            best = merit, cosines, shrinkage, SCALES[losses.index(loss)]
    assert best is not None
    return best[1:]


def _prototypes(
    means: Tensor, shares: Tensor | None
) -> tuple[Float[Tensor, "axes classes"], Float[Tensor, " classes"]]:
    """What multiplies a row of unit length, and what is added; before the scale."""
    if shares is None:
        return normalize(means, dim=1).T, means.new_zeros(len(means))
    prototypes = means / means.norm(dim=1).mean().clamp(min=1e-6)
    return prototypes.T, -(prototypes.square() @ shares) / 2


def _foreign_scores(
    rows: Tensor, places: Tensor, means: Tensor, shares: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The best score of another class for examples of a class that is left out; and that class.

    Without the class the mean of the class means is another, which matters where they are few.
    """
    found, of = [rows.new_zeros(0)], [places[:0]]
    if len(means) > 2:
        for own in _evenly_spaced(len(means), _FOREIGN_CLASSES, rows.device):
            others = torch.cat([means[:own], means[own + 1 :]])
            mean = others.mean(0)
            examples = normalize(rows[places == own] - mean, dim=1)
            prototypes, bias = _prototypes(others - mean, shares)
            found.append((examples @ prototypes + bias).amax(1))
            of.append(own.expand(len(examples)))
    return torch.cat(found), torch.cat(of)


def _one_shot_shares(variances: Tensor, dim: int, n_classes: int) -> tuple[Tensor, float]:
    """Shares along the axes and precision outside them, for classes of one example each."""
    level = variances.sum() / dim
    if not level > 0:
        return torch.ones_like(variances), 0.5
    total, squares = variances.sum(), variances.square().sum()
    spread = (n_classes - 2 / dim) * (squares - total**2 / dim).clamp(min=1e-12)
    shrinkage = (((1 - 2 / dim) * squares + total**2) / spread).clamp(max=1.0)
    noise = level / 2
    shrunken = (1 - shrinkage) * variances + shrinkage * level

    def share(variance: Tensor) -> Tensor:
        signal = (variance - noise).clamp(min=0.02 * level) / noise
        return signal / (1 + signal)

    outside = share(shrinkage * level).item()
    return share(shrunken), outside / (1 + outside)


def _evenly_spaced(count: int, most: int, device: torch.device) -> Tensor:
    """At most so many places among `count`."""
    if count <= most:
        return torch.arange(count, device=device)
    return torch.linspace(0, count - 1, most, device=device).long()
