"""The fitted reader: class means in a metric that is found out from the remembered examples.

    g = unit(f), or its square roots            features: `rarememory.classifier.roots`
    x = unit(g - mu) - c                        centred by the mean of the class means
    P = ((1 - a) S + a tr(S) / d I)^-1          S: covariance within classes, a: its shrinkage
    z_c = t s_P(x, m_c) + D_c . x / |x|_P + b_c

A linear discriminant (Fisher 1936) with a shrunken covariance (Friedman 1989), whose score s is
between that and a cosine (`rarememory.classifier.class_scores`). The shrinkage a and the scale t
are those with which the examples that are left out one at a time are answered best
(`rarememory.classifier.leave_one_out`); D and b are `rarememory.classifier.refinement`. There is
nothing to set and no example is held out.

The metric is `rarememory.classifier.metric`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from rarememory.base.state import wants_gradient
from rarememory.classifier.class_cosines import ClassCosines
from rarememory.classifier.class_scores import ClassScores
from rarememory.classifier.leave_class_out import foreign_scores
from rarememory.classifier.metric import (
    Examples,
    FittedMetric,
    Spread,
    class_weights,
    fitted_metric,
    fitting,
    squares_outside,
)
from rarememory.classifier.refinement import PENALTY, refined
from rarememory.classifier.roots import are_compared_by_roots, unit_roots
from rarememory.native import empty_output, is_floats, is_supported, library, prepared

_REFINED = 2**30
"""Multiplications of a refinement's step; beyond them the class means alone answer."""
FEW = 4
"""Queries up to which the library in C++ is quicker than torch's products."""


class Settings(NamedTuple):
    """What `MemoryClassifier.calibrate` chooses by held-out examples.

    Attributes:
        shrinkage: of the covariance within classes, in (0, 1]; found by leave-one-out if None.
        penalty: on what the refinement changes.
        distances: 1 if examples are compared by their distances (`rarememory.classifier.kernel`),
            0 if by cosines; found by leave-one-out if None.
    """

    shrinkage: float | None = None
    penalty: float = PENALTY
    distances: float | None = None


class Answered(NamedTuple):
    """Which of some remembered examples are answered rightly, each of them left out.

    Attributes:
        samples: which of the keys each example is.
        classes: the place of each one's own class.
        several: whether its class has other examples.
        right: whether the answer is its class.
    """

    samples: Int64[Tensor, " examples"]
    classes: Int64[Tensor, " examples"]
    several: Bool[Tensor, " examples"]
    right: Bool[Tensor, " examples"]


@dataclass(frozen=True)
class LeftOut:
    """What is said of remembered examples that are left out, one at a time.

    Attributes:
        logits: of every class.
        unrefined: the same without the refinement, which has seen the examples.
        find_foreign: gives `foreign`.
        samples: which of the keys each example is.
        classes: the place of each example's own class.
        several: whether its class has other examples.
        one_shot: the logit that a class of one example alone would give another; both are places
            among these, which come class by class.
    """

    logits: Float[Tensor, "examples classes"]
    unrefined: Float[Tensor, "examples classes"]
    find_foreign: Callable[[], Float[Tensor, "examples classes"]]
    samples: Int64[Tensor, " examples"]
    classes: Int64[Tensor, " examples"]
    several: Bool[Tensor, " examples"]
    one_shot: Callable[[Int64[Tensor, " pairs"], Int64[Tensor, " pairs"]], Float[Tensor, " pairs"]]

    @cached_property
    def foreign(self) -> Float[Tensor, "examples classes"]:
        """The logits if the example's own class had never been learnt; -inf for that.

        They are found when they are first asked for: an answer without a threshold needs none.
        """
        with fitting(self.logits.device):
            return self.find_foreign()

    @property
    def answered(self) -> Answered:
        """Which are answered rightly, by `unrefined`."""
        right = self.unrefined.argmax(1) == self.classes
        return Answered(self.samples, self.classes, self.several, right)

    @property
    def of_others(self) -> Float[Tensor, "examples classes"]:
        """The logits, -inf for each example's own class."""
        return self.logits.scatter(1, self.classes.unsqueeze(1), -torch.inf)


@dataclass(frozen=True)
class Discriminant:
    """A fitted reader of remembered examples.

    Attributes:
        classes: integers of the classes, ascending.
        by_roots: whether g are square roots.
        mean: mu.
        center: c.
        metric: orthonormal axes, each times the root of its precision.
        found: precision, shrinkage and scale.
        means: of g of each class, less mu, over `feature_length`, in the metric.
        feature_length: the mean length of g - mu, every class with the same weight.
        weights: of a row at unit length in the metric.
        bias: of each class.
        change: of the weights, by refinement; None without it.
        more: bias, by refinement.
        left_out: what is said of the examples it was fitted to.
        plain: cosines to the class means as the features are.

    Example:
        >>> keys = normalize(torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.1, 1.0]]))
        >>> found = fit_discriminant(keys, torch.tensor([3, 3, 7]))
        >>> found.classes, found.logits(torch.tensor([[5.0, 1.0]])).argmax(1)
        (tensor([3, 7]), tensor([0]))
    """

    classes: Int64[Tensor, " classes"]
    by_roots: bool
    mean: Float[Tensor, " key_dim"]
    center: Float[Tensor, " key_dim"]
    metric: Float[Tensor, "key_dim axes"]
    found: FittedMetric
    means: Float[Tensor, "classes axes"]
    feature_length: Float[Tensor, ""]
    weights: Float[Tensor, "axes classes"]
    bias: Float[Tensor, " classes"]
    change: Float[Tensor, "axes classes"] | None
    more: Float[Tensor, " classes"]
    left_out: LeftOut
    plain: ClassCosines

    def rows(self, features: Float[Tensor, "batch key_dim"]) -> Float[Tensor, "batch axes"]:
        """Features along the axes, scaled by the metric, to unit length in it."""
        x = normalize(self._centred(features), dim=1) - self.center
        rows = x @ self.metric
        squares = rows.square().sum(1) + squares_outside(x, rows, self.found)
        return rows * squares.clamp(min=1e-12).rsqrt().unsqueeze(1)

    def similarities(
        self, queries: Float[Tensor, "batch key_dim"], features: Float[Tensor, "examples key_dim"]
    ) -> Float[Tensor, "batch examples"]:
        """Products; the mean over a class's examples is its score, but for factor and bias."""
        return self.rows(queries) @ self.rows(features).T

    def logits(self, features: Float[Tensor, "batch key_dim"]) -> Float[Tensor, "batch classes"]:
        """The z of every class."""
        found = self.logits_of_few(features)
        if found is not None:
            return found
        rows = self.rows(features)
        base = torch.addmm(self.bias, rows, self.weights)
        if self.change is None:
            return base
        return _levelled(base, torch.addmm(base + self.more, rows, self.change))

    def foreign(
        self, features: Float[Tensor, "batch key_dim"], places: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch classes"]:
        """The z of every class, if the class in this place had never been learnt; -inf for that."""
        x = self._centred(features) / self.feature_length
        rows = x @ self.metric
        outside = squares_outside(x, rows, self.found)
        return _foreign(rows, places, self.means, self.found, self.plain.counts, outside)

    def logits_of_few(
        self, features: Float[Tensor, "batch key_dim"]
    ) -> Float[Tensor, "batch classes"] | None:
        """`logits` in one call, where that is quicker.

        None for many rows, for a gradient, for a row without a length that float32 can divide by,
        and where the library cannot read these tensors.
        """
        given, shape = self.kernel_arguments, features.shape
        fits = shape[1:] == self.mean.shape and shape[0] <= FEW and is_floats(features)
        if given is None or not fits or wants_gradient(features):
            return None
        logits = empty_output(len(features), len(self.bias), dtype=torch.float32)
        classes = (None, len(self.bias), torch.get_num_threads())
        unsafe = library().discriminate(features, *shape, *given.values, *classes, logits)
        return None if unsafe else logits

    @cached_property
    def kernel_arguments(self) -> "KernelArguments | None":
        """What the library reads of this; None if it cannot."""
        dim, axes = self.metric.shape
        precision = self.found.precision if axes < dim else None
        parts = [self.mean, self.center, self.metric, precision]
        parts += [self.weights, self.bias, self.change, self.more]
        kept = [None if part is None else part.contiguous() for part in parts]
        if not is_supported(*(part for part in kept if part is not None)):
            return None
        mean, center, metric, precision, *linear = kept
        outside = self.found.outside
        values = prepared(self.by_roots, mean, center, metric, axes, precision, outside, *linear)
        return KernelArguments(values, kept)

    def _centred(self, features: Tensor) -> Tensor:
        units = normalize(features.to(self.mean.dtype), dim=1)
        return (unit_roots(units) if self.by_roots else units) - self.mean


class KernelArguments(NamedTuple):
    """Arguments of a kernel from `by_roots` to `more`, and the tensors that they point into."""

    values: list[Any]
    tensors: list[Tensor | None]


def fit_discriminant(
    keys: Float[Tensor, "examples key_dim"],
    values: Int64[Tensor, " examples"],
    settings: Settings = Settings(),  # noqa: B008, a tuple
) -> Discriminant:
    """The reader of these examples; the same for the same examples, in whatever order they are.

    Args:
        keys: at unit length, in any float dtype.
        values: integers of their classes, of at least two different ones.
        settings: that are not found from the examples.
    """
    # Outside inference mode, because the refinement changes a tensor in place.
    with fitting(keys.device):
        return _fitted(Examples.of(keys, values), settings)


def _fitted(examples: Examples, settings: Settings) -> Discriminant:
    keys, samples, places, classes, counts = examples
    by_roots = are_compared_by_roots(keys)
    features = unit_roots(keys) if by_roots else keys
    feature_means = examples.class_means(features)
    mean = feature_means.mean(0)
    centred = normalize(features - mean, dim=1)
    centred_means = examples.class_means(centred)
    center = centred_means.mean(0)
    spread = Spread.of(centred - center, places, centred_means - center, counts)
    some = examples.some()
    found = fitted_metric(spread, some, settings.shrinkage)
    scales = found.precision.sqrt()
    rows = normalize(spread.rows * scales, dim=1)
    prototypes, bias = _prototypes(spread.means * scales, counts, found)
    scores = rows[some] @ prototypes + bias if found.left_out is None else found.left_out
    weights, bias = found.scale * prototypes, found.scale * bias
    # Left out of the means, and not of the refinement, which changes little.
    unrefined = logits = found.scale * scores
    change, more = None, torch.zeros_like(counts)
    if spread.degrees and rows.numel() * len(counts) <= _REFINED:
        # Scaled like the logits, so that one penalty fits memories of every scale.
        root = found.scale**0.5
        base = torch.addmm(bias, rows, weights)
        change, more = refined(root * rows, base, places, counts, settings.penalty)
        change = root * change
        logits = _levelled(logits, logits + rows[some] @ change + more)
    key_means = examples.class_means(keys) if by_roots else feature_means
    plain = ClassCosines(key_means, counts, found.scale)
    metric, own = spread.basis * scales, places[some]
    length = (class_weights(places, counts) @ (features - mean).norm(dim=1)).clamp(min=1e-6)
    means, x = (feature_means - mean) @ metric / length, (features[some] - mean) / length
    left_out = LeftOut(
        logits,
        unrefined,
        lambda: _foreign(x @ metric, own, means, found, counts),
        samples[some],
        own,
        counts[own] > 1,
        partial(_one_shot, rows[some], found.scale),
    )
    return Discriminant(
        *(classes, by_roots, mean, center, metric, found, means, length),
        *(weights, bias, change, more, left_out, plain),
    )


def _foreign(
    rows: Tensor,
    own: Tensor,
    means: Tensor,
    found: FittedMetric,
    counts: Tensor,
    outside: Tensor | float = 0.0,
) -> Float[Tensor, "examples classes"]:
    return found.scale * foreign_scores(rows, own, means, found.scoring, counts, outside)


def _one_shot(rows: Tensor, scale: float, one: Tensor, other: Tensor) -> Float[Tensor, " pairs"]:
    """The logits of classes of one example each; rows are at unit length in the metric."""
    return scale * (rows[one] * rows[other]).sum(1)


def _levelled(base: Tensor, refined_logits: Tensor) -> Tensor:
    """Refined logits, their greatest as great as that of the base.

    Refinement sees no strangers: it says which class it is, and not how near.
    """
    return refined_logits + (base.amax(1, keepdim=True) - refined_logits.amax(1, keepdim=True))


def _prototypes(
    means: Tensor, counts: Tensor, found: FittedMetric
) -> tuple[Float[Tensor, "axes classes"], Float[Tensor, " classes"]]:
    """What multiplies a row of unit length, and what is added; before the scale."""
    if isinstance(found.scoring, ClassScores):
        squares = means.square().sum(1)
        scoring = found.scoring
        return means.T * scoring.factor(squares, counts), scoring.bias(squares, counts)
    prototypes = means / means.norm(dim=1).mean().clamp(min=1e-6)
    return prototypes.T, -(prototypes.square() @ found.scoring) / 2
