"""A whole class left out in closed form: what the other class means say of its examples.

Without class c of n, the mean of the class means is mu_c = mu - (m_c - mu) / (n - 1), so centring
by it shifts every product by a few others that are known already. The metric stays as it is: it is
that of all classes, and one more or less changes it little.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.classifier.class_scores import ClassScores

_SMALLEST = 1e-12


def foreign_scores(
    rows: Float[Tensor, "examples axes"],
    places: Int64[Tensor, " examples"],
    means: Float[Tensor, "classes axes"],
    scoring: ClassScores | Float[Tensor, " axes"],
    counts: Float[Tensor, " classes"],
    outside: Float[Tensor, " examples"] | float = 0.0,
) -> Float[Tensor, "examples classes"]:
    """The score of every other class for each example, its own left out; -inf for that.

    There must be at least two classes, and with two the other one is its own mean: then it has no
    direction.

    Args:
        rows: examples, less the mean of the class means, in the metric.
        places: the own class of each.
        means: of the classes, less their mean, in the metric.
        scoring: of all classes, for the score of `rarememory.classifier.class_scores`; or shares of
            the variance that is left for the classes, for a product as `Discriminant` has it for
            classes of one example.
        counts: examples of each class.
        outside: the squared length of each example outside the axes.

    Example:
        >>> means = torch.tensor([[2.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> squares, counts = means.square().sum(1), torch.ones(3)
        >>> scoring = ClassScores.of(squares, counts, torch.tensor(2.0), torch.tensor(0.1))
        >>> foreign_scores(means[:1], torch.tensor([0]), means, scoring, counts).isfinite()
        tensor([[False,  True,  True]])
    """
    others = len(means) - 1
    own = places.unsqueeze(1)
    # With s_c = -m_c / (n - 1) in place of the mean, which is 0.
    products = rows @ means.T
    row_shift = -products.gather(1, own) / others
    shift_mean, shift_shift, squares = _shifted(means, others)
    products = products - row_shift - shift_mean[places] + shift_shift[own]
    row_squares = rows.square().sum(1) + outside
    row_squares = row_squares.unsqueeze(1) - 2 * row_shift + shift_shift[own]
    products = products / row_squares.clamp(min=_SMALLEST).sqrt()
    squares = squares.clamp(min=0)
    # Of the others.
    level = _mean_of_others(squares.sqrt())
    if isinstance(scoring, ClassScores):
        typical = _mean_of_others(squares - scoring.variance / counts)
        scoring = scoring._replace(mean_length=level, typical_square=typical).bounded()
        factor, bias = scoring.factor(squares, counts), scoring.bias(squares, counts)
    else:
        level = level.clamp(min=1e-6)
        _, _, weighted = _shifted(means * scoring.sqrt(), others)
        factor, bias = 1 / level.expand_as(squares), -weighted / level.square() / 2
    scores = torch.addcmul(bias[places], products, factor[places])
    return scores.scatter(1, own, -torch.inf)


def _mean_of_others(squares: Tensor) -> Float[Tensor, "classes 1"]:
    """The mean of each row of a square matrix without its own column."""
    kept = squares.clone().fill_diagonal_(0)
    return kept.sum(1, keepdim=True) / (len(squares) - 1)


def _shifted(means: Tensor, others: int) -> tuple[Tensor, Tensor, Tensor]:
    """s_c . m_j and |s_c|^2, and |m_j - s_c|^2, for every class c that is left out and every j."""
    inner = means @ means.T
    of_own = inner.diagonal()
    shift_mean, shift_shift = -inner / others, of_own / others**2
    return shift_mean, shift_shift, of_own - 2 * shift_mean + shift_shift.unsqueeze(1)
