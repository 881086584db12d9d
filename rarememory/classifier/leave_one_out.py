"""Leave-one-out in closed form: what a class mean would say of each example, had it not seen it.

Taking an example x of a class of n out of the statistics moves the mean of its class and lowers
the within-class scatter by one rank, so the inverse P of the shrunken covariance changes by one
rank too (Sherman and Morrison 1950):

    m' = m - r / (n - 1),   P' = P + k (P r)(P r)^T,   r = x - m
    k = k0 / (1 - k0 r^T P r),   k0 = (1 - shrinkage) n / ((n - 1) degrees)

Everything that a score in the metric P' needs (`rarememory.classifier.class_scores`) is then a
product of rows that are there already, and no covariance is inverted twice.
"""

from typing import NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.classifier.class_scores import ClassScores

_SMALLEST = 1e-9


class LeftOutProducts(NamedTuple):
    """Products in P' of examples x and class means m', each example left out of both.

    Attributes:
        products: x.P' m' of each example and every class.
        means: m'.P' m', for each example and every class.
        rows: x.P' x of each example.
    """

    products: Float[Tensor, "examples classes"]
    means: Float[Tensor, "examples classes"]
    rows: Float[Tensor, "examples 1"]

    def own_variance(
        self,
        classes: Int64[Tensor, " examples"],
        counts: Float[Tensor, " classes"],
        weights: Float[Tensor, " examples"],
    ) -> Float[Tensor, ""]:
        """The mean of |x - m'|^2 (n - 1) / n: of an example and the true mean of its class.

        Args:
            classes: the place of each example's own class.
            counts: examples of each class.
            weights: of the examples; 0 for those that are alone in their class.
        """
        own, n = classes.unsqueeze(1), counts[classes]
        products, means = (part.gather(1, own).squeeze(1) for part in (self.products, self.means))
        squares = (self.rows.squeeze(1) - 2 * products + means).clamp(min=0)
        return weights @ (squares * (n - 1) / n)

    def scores(
        self,
        classes: Int64[Tensor, " examples"],
        counts: Float[Tensor, " classes"],
        scoring: ClassScores,
    ) -> Float[Tensor, "examples classes"]:
        """s(x, m') in P'; the products are changed.

        Args:
            classes: the place of each example among the means.
            counts: examples of each class.
            scoring: the numbers of the score.
        """
        own = classes.unsqueeze(1)
        # In place: of many examples and classes these are the largest tensors of a fit.
        products = self.products.mul_(self.rows.clamp(min=_SMALLEST).rsqrt())
        scores = scoring.scores(products, self.means, counts)
        # The mean of its own class is of one example less.
        left = (counts[classes] - 1).clamp(min=1).unsqueeze(1)
        own_scores = scoring.scores(products.gather(1, own), self.means.gather(1, own), left)
        return scores.scatter_(1, own, own_scores)


def left_out_products(
    rows: Float[Tensor, "examples dim"],
    classes: Int64[Tensor, " examples"],
    means: Float[Tensor, "classes dim"],
    counts: Float[Tensor, " classes"],
    precision: Float[Tensor, " dim"],
    shrinkage: float,
    degrees: int,
    residual_squares: Float[Tensor, "examples dim"] | None = None,
) -> LeftOutProducts:
    """What compares each example with the mean of every class, itself left out of mean and metric.

    Args:
        rows: examples, in the axes of the within-class covariance.
        classes: the place of each among the means.
        means: of the classes, in the same axes.
        counts: examples of each class. An example that is alone in its class has nothing left to
            compare with: its row is as if it had been seen.
        precision: the diagonal of P in these axes.
        shrinkage: of the covariance, in [0, 1].
        degrees: of freedom of the covariance, examples less classes.
        residual_squares: (x - m)^2 of each example and its own class, if they are there already.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1]])
        >>> classes, means = torch.tensor([0, 0, 1, 1]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> counts = torch.tensor([2.0, 2.0])
        >>> products = left_out_products(rows, classes, means, counts, torch.ones(2), 1.0, 2)
        >>> squares = means.square().sum(1)
        >>> scoring = ClassScores.of(squares, counts, torch.tensor(1.0), torch.tensor(0.0))
        >>> found = products.scores(classes, counts, scoring)
        >>> bool((found[:2, 0] > found[:2, 1]).all())
        True
    """
    own = classes.unsqueeze(1)
    n = counts[classes]
    weighted = rows * precision
    by_mean = weighted @ means.T
    mean_by_mean = (means * precision) @ means.T
    residual_by_mean = by_mean - mean_by_mean[classes]
    squares = mean_by_mean.diagonal()
    x_x = (weighted * rows).sum(1)
    x_m = by_mean.gather(1, own).squeeze(1)
    r_m = residual_by_mean.gather(1, own).squeeze(1)
    x_r = x_x - x_m
    # By itself and not as a difference: of few examples 1 - k0 r_r is close to 0.
    if residual_squares is None:
        residual_squares = (rows - means[classes]).square()
    r_r = residual_squares @ precision
    others = (n - 1).clamp(min=1)
    start = (1 - shrinkage) * n / (others * max(1, degrees))
    k = (start / (1 - start * r_r).clamp(min=1e-5)).where(n > 1, 0.0)

    r_own = r_m - r_r / others
    own_product = x_m - x_r / others + k * x_r * r_own
    own_length = squares[classes] - 2 * r_m / others + r_r / others.square() + k * r_own.square()
    # In place: of many examples and classes these are the largest tensors of a fit.
    products = by_mean.addcmul_((k * x_r).unsqueeze(1), residual_by_mean)
    lengths = residual_by_mean.square_().mul_(k.unsqueeze(1)).add_(squares)
    products.scatter_(1, own, own_product.where(n > 1, x_m).unsqueeze(1))
    lengths.scatter_(1, own, own_length.where(n > 1, squares[classes]).unsqueeze(1))
    return LeftOutProducts(products, lengths, (x_x + k * x_r.square()).unsqueeze(1))
