"""A whole class left out in closed form: what the other class means say of its examples.

Without class c of n, the mean of the class means is mu_c = mu - (m_c - mu) / (n - 1), so centring
by it shifts every product by a few others that are known already. The metric stays as it is: it is
that of all classes, and one more or less changes it little.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.classifier.class_scores import Lengths

_SMALLEST = 1e-12


def foreign_scores(
    rows: Float[Tensor, "examples axes"],
    places: Int64[Tensor, " examples"],
    means: Float[Tensor, "classes axes"],
    scoring: Lengths | Float[Tensor, " axes"],
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
        scoring: lengths, for the score of `rarememory.classifier.class_scores`; or shares of the
            variance that is left for the classes, for a product as `Discriminant` has it for
            classes of one example.
        counts: examples of each class.
        outside: the squared length of each example outside the axes.

    Example:
        >>> means = torch.tensor([[2.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> squares, counts = means.square().sum(1), torch.ones(3)
        >>> lengths = Lengths.of(squares, counts, torch.tensor(2.0), torch.tensor(0.1))
        >>> foreign_scores(means[:1], torch.tensor([0]), means, lengths, counts).isfinite()
        tensor([[False,  True,  True]])
    """
    others = len(means) - 1
    own = places.unsqueeze(1)
    # With s_c = -m_c / (n - 1) in place of the mean, which is 0.
    products = rows @ means.T
    row_shift = -products.gather(1, own) / others
    shift_mean, shift_shift, squares = _shifted(means, others)
    products = products - row_shift - shift_mean[places] + shift_shift[own]
    lengths = rows.square().sum(1) + outside
    lengths = lengths.unsqueeze(1) - 2 * row_shift + shift_shift[own]
    products = products / lengths.clamp(min=_SMALLEST).sqrt()
    squares = squares.clamp(min=0)
    if isinstance(scoring, Lengths):
        factor, bias = scoring.factor(squares, counts), scoring.bias(squares, counts)
    else:
        level = squares.sqrt().fill_diagonal_(0).sum(1) / others
        level = level.clamp(min=1e-6).unsqueeze(1)
        _, _, weighted = _shifted(means * scoring.sqrt(), others)
        factor, bias = 1 / level.expand_as(squares), -weighted / level.square() / 2
    scores = torch.addcmul(bias[places], products, factor[places])
    return scores.scatter(1, own, -torch.inf)


def _shifted(means: Tensor, others: int) -> tuple[Tensor, Tensor, Tensor]:
    """s_c . m_j and |s_c|^2, and |m_j - s_c|^2, for every class c that is left out and every j."""
    inner = means @ means.T
    of_own = inner.diagonal()
    shift_mean, shift_shift = -inner / others, of_own / others**2
    return shift_mean, shift_shift, of_own - 2 * shift_mean + shift_shift.unsqueeze(1)
