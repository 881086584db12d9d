"""The fitted reader where distances tell classes apart: normal densities of one covariance.

    z_c = -t / 2 |x - m_c|^2_P        x: features, each column divided by its deviation

Linear discriminant analysis (Fisher 1936) as a density, with the metric P of
`rarememory.classifier.metric`. The cosine of `rarememory.classifier.discriminant` compares
directions alone, which serves features of neural networks best; columns of a table can have all
they tell in how far an example is from the mean. Which of the two answers is found out by
leave-one-out: `answers_more`. Where every class has one example there is nothing to leave out; then
P is the identity, and distances are used if the examples lie along very few directions, of which
cosines about their mean see little more than the sign.
"""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from rarememory.classifier.discriminant import LeftOut, Settings
from rarememory.classifier.metric import (
    Examples,
    FittedMetric,
    Spread,
    class_weights,
    fitted_metric,
    fitting,
    squares_outside,
)
from rarememory.classifier.norms import norms_of

_ONE_SHOT_SCALE = 16.0
"""Of the mean squared difference of a column."""
_FEW_DIRECTIONS = 2.5
"""So few that cosines about a mean tell little; features of networks have at least five."""
_MANY_DIRECTIONS = 12.0
"""Features of networks have more, columns of tables fewer."""
_EQUAL_LENGTHS = 1e-2
"""Part of the longest by which lengths that are meant to be equal differ, in bfloat16 too."""
_SOME = 512
"""Examples that show how many directions there are."""
_TRIED = 2**17
"""Leave-one-out scores that show which form of the reader answers more."""


@dataclass(frozen=True)
class GaussianDiscriminant:
    """A fitted reader of remembered examples; its interface is that of `Discriminant`.

    Attributes:
        classes: integers of the classes, ascending.
        mean: of the class means.
        metric: orthonormal axes of scaled columns, each times the root of its precision.
        deviations: of the columns.
        found: precision, shrinkage and scale.
        means: of the classes, less their mean, in the metric.
        left_out: what is said of the examples it was fitted to.

    Example:
        >>> rows = torch.tensor([[1.0, 0.1], [1.1, -0.1], [9.0, 0.1], [9.3, -0.1]])
        >>> found = fit_gaussian(rows, torch.tensor([3, 3, 7, 7]))
        >>> found.classes[found.logits(torch.tensor([[2.0, 0.0], [8.0, 0.0]])).argmax(1)]
        tensor([3, 7])
    """

    classes: Int64[Tensor, " classes"]
    mean: Float[Tensor, " key_dim"]
    metric: Float[Tensor, "key_dim axes"]
    deviations: Float[Tensor, " key_dim"]
    found: FittedMetric
    means: Float[Tensor, "classes axes"]
    left_out: LeftOut

    def rows(self, features: Float[Tensor, "batch key_dim"]) -> Float[Tensor, "batch axes"]:
        """Features along the axes, at unit length: products say how alike examples are."""
        return normalize(self._scaled(features) @ self.metric, dim=1)

    def logits(self, features: Float[Tensor, "batch key_dim"]) -> Float[Tensor, "batch classes"]:
        """The z of every class."""
        x = self._scaled(features)
        rows = x @ self.metric
        squares = rows.square().sum(1) + squares_outside(x, rows, self.found)
        distances = squares.unsqueeze(1) - 2 * rows @ self.means.T + self.means.square().sum(1)
        return -self.found.scale / 2 * distances.clamp(min=0)

    def foreign(
        self, features: Float[Tensor, "batch key_dim"], places: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch classes"]:
        """The z of every class, if the class in this place had never been learnt; -inf for that.

        The metric stays as it is, and distances to the other means do too.
        """
        return self.logits(features).scatter(1, places.unsqueeze(1), -torch.inf)

    def _scaled(self, features: Tensor) -> Tensor:
        return (features.to(self.mean.dtype) - self.mean) / self.deviations


def one_shot_gaussian(
    features: Float[Tensor, "examples key_dim"], values: Int64[Tensor, " examples"]
) -> GaussianDiscriminant | None:
    """The reader by distances of classes with one example each, if it serves them; otherwise None.

    It does where their directions are few: at most 2.5, and at most half of what is possible.
    """
    with fitting(features.device):
        examples = Examples.of(features, values)
        # Of equal examples it is NaN, which is not greater.
        if _directions(examples.rows) > min(_FEW_DIRECTIONS, (len(examples.rows) - 1) / 2):
            return None
        rows, mean, deviations = _scaled_columns(examples)
        columns = int(deviations.isfinite().sum())
        if not columns:
            return None
        metric = torch.eye(rows.shape[1], device=rows.device, dtype=rows.dtype)
        scale = _ONE_SHOT_SCALE / columns
        found = FittedMetric(metric.new_ones(len(metric)), 0.0, None, None, scale, None)
        logits = -scale / 2 * torch.cdist(rows, rows).square()
        left_out = _left_out(examples, examples.some(), logits, rows, scale)
        return GaussianDiscriminant(
            examples.classes, mean, metric, deviations, found, rows, left_out
        )


def fit_gaussian(
    features: Float[Tensor, "examples key_dim"],
    values: Int64[Tensor, " examples"],
    settings: Settings = Settings(),  # noqa: B008, a tuple
    than: LeftOut | None = None,
) -> GaussianDiscriminant | None:
    """The reader of these examples; the same for the same examples, in whatever order they are.

    None where all examples of a class are equal: there is no metric then. And None where it does
    not answer more than cosines do; a part of the examples shows that, so that it costs little, and
    where it cannot be, nothing is fitted.

    Args:
        features: in any float dtype.
        values: integers of their classes; every class has two examples at least.
        settings: of which the shrinkage counts; there is no refinement.
        than: what cosines say of the examples; None to fit it in any case.
    """
    with fitting(features.device):
        examples = Examples.of(features, values)
        if than is not None and not _may_tell_more(examples.rows):
            return None
        rows, mean, deviations = _scaled_columns(examples)
        means = examples.class_means(rows)
        spread = Spread.of(rows, examples.places, means, examples.counts)
        shrinkage = settings.shrinkage
        if than is not None:
            some = examples.some(_TRIED)
            tried = fitted_metric(spread, some, shrinkage, densities=True)
            if tried.left_out is None:
                return None
            left_out = _left_out(examples, some, tried.left_out, spread.rows[some], tried.scale)
            if not answers_more(left_out, than):
                return None
            shrinkage = tried.shrinkage
        some = examples.some()
        found = fitted_metric(spread, some, shrinkage, densities=True)
        if found.left_out is None:
            return None
        roots, logits = found.precision.sqrt(), found.scale * found.left_out
        left_out = _left_out(examples, some, logits, spread.rows[some] * roots, found.scale)
        metric, means = spread.basis * roots, spread.means * roots
        return GaussianDiscriminant(
            examples.classes, mean, metric, deviations, found, means, left_out
        )


def answers_more(one: LeftOut, other: LeftOut) -> bool:
    """Whether one reader answers more examples rightly than another, and not by chance.

    The difference, in which all classes count the same, must be greater than its standard error.

    Args:
        one: said of some examples.
        other: said of these and perhaps more, in any order.
    """
    known = torch.isin(one.samples, other.samples)
    place = other.samples.argsort()
    place = place[torch.searchsorted(other.samples, one.samples[known], sorter=place)]
    classes = one.classes[known]
    weights = class_weights(classes, torch.bincount(classes).to(one.logits))
    right = (one.unrefined.argmax(1) == one.classes)[known]
    gains = right.to(weights) - (other.unrefined.argmax(1) == other.classes)[place].to(weights)
    mean = (weights * gains).sum()
    error = (weights.square() * (gains - mean).square()).sum().sqrt()
    return bool(mean > error)


def _may_tell_more(features: Float[Tensor, "examples key_dim"]) -> bool:
    """Whether distances may tell classes apart that directions do not.

    Not where all features have the same length, as those of many encoders do, and lie along many
    directions: then all are about as far from their mean.
    """
    norms = norms_of(features)
    equal = norms.amax() - norms.amin() <= _EQUAL_LENGTHS * norms.amax()
    return not bool(equal) or _directions(features) <= _MANY_DIRECTIONS


def _directions(features: Tensor) -> float:
    """How many directions unit features lie along, by up to 512 of them.

    (sum l)^2 / sum l^2, with the variances l along their principal axes; NaN where all are equal.
    """
    some = torch.linspace(0, len(features) - 1, min(len(features), _SOME)).long()
    rows = normalize(features[some.to(features.device)], dim=1)
    rows = rows - rows.mean(0)
    products = rows @ rows.T
    return (products.trace().square() / products.square().sum()).item()


def _scaled_columns(examples: Examples) -> tuple[Tensor, Tensor, Tensor]:
    """Features less the mean of the class means, in deviations of each column; mean, deviations."""
    mean = examples.class_means(examples.rows).mean(0)
    rows = examples.rows - mean
    deviations = rows.square().mean(0).sqrt()
    # A column that is the same everywhere tells nothing.
    deviations = deviations.where(deviations > 1e-6 * deviations.max(), torch.inf)
    return rows / deviations, mean, deviations


def _left_out(
    examples: Examples, some: Tensor, logits: Tensor, rows: Tensor, scale: float
) -> LeftOut:
    own = examples.places[some]
    foreign = partial(logits.scatter, 1, own.unsqueeze(1), -torch.inf)
    several = examples.counts[own] > 1
    units = normalize(rows, dim=1)
    return LeftOut(logits, logits, foreign, examples.samples[some], own, several, units, scale)
