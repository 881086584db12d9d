"""How near a row is to the mean of a class: between a cosine and linear discriminant analysis.

    s(x, m) = (1 - w) cos(x, m)  +  w (x.m / |x| - (|m|^2 - v / n - q) / (2 r)) / l
    w = (n - 1) / (2 n)

All products are in the metric of the examples. A cosine asks for the direction of a mean and not
for its length, which is short where the examples of a class have little in common. Discriminant
analysis (Fisher 1936) asks for both: its logit is x.m - |m|^2 / 2. Here that is for a row of length
r, in units of l, the mean length of the means. A mean of n examples is longer than the true one:
|m|^2 has v / n too much, with v the expected square of an example's distance from the true mean.
The mean of what remains of |m|^2 without that is q. Both r and v are of examples that are left out,
and every class has the same weight. The length of a single example says nothing of its class, so
its weight w is 0; with more examples it grows to a half.
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

WEIGHT = 0.5
"""Of discriminant analysis, for classes of many examples. Of 0, 1/2 and 1, the one with which the
fewest of ten sets of photos, sentences and sounds lose; see docs/results.md."""
SHORTEST = 0.1
"""Of l, over r: where all means are nearly one, nothing is measured by their length."""
_SMALLEST = 1e-9


class ClassScores(NamedTuple):
    """The numbers of the formula above.

    Attributes:
        mean_length: l.
        row_length: r.
        variance: v.
        typical_square: q.
    """

    mean_length: Float[Tensor, "..."]
    row_length: Float[Tensor, ""]
    variance: Float[Tensor, ""]
    typical_square: Float[Tensor, "..."]

    @classmethod
    def of(
        cls,
        squares: Float[Tensor, " classes"],
        counts: Float[Tensor, " classes"],
        row_length: Float[Tensor, ""],
        variance: Float[Tensor, ""],
    ) -> "ClassScores":
        """Those of class means with these squared lengths, of so many examples each."""
        row_length = row_length.clamp(min=_SMALLEST**0.5)
        mean_length = squares.clamp(min=0).sqrt().mean()
        typical = (squares - variance / counts).mean()
        return cls(mean_length, row_length, variance, typical).bounded()

    def bounded(self) -> "ClassScores":
        """The same, with l at least `SHORTEST` of r."""
        shortest = SHORTEST * self.row_length
        return self._replace(mean_length=self.mean_length.maximum(shortest))

    def factor(
        self, squares: Float[Tensor, "..."], counts: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """What multiplies x.m / |x|, for means with these squared lengths, of so many examples."""
        weight = _weight(counts)
        inverse = squares.clamp(min=_SMALLEST).rsqrt_()
        return inverse * (1 - weight) + weight / self.mean_length

    def bias(
        self, squares: Float[Tensor, "..."], counts: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """What is added to that product.

        Example:
            >>> import torch
            >>> squares, counts = torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0])
            >>> found = ClassScores.of(squares, counts, torch.tensor(2.0), torch.tensor(1.0))
            >>> found.factor(squares, counts), found.bias(squares, counts)
            (tensor([0.9167, 0.5417]), tensor([ 0.0625, -0.0625]))
        """
        surplus = squares - (self.variance / counts + self.typical_square)
        return surplus * (_weight(counts) / (-2 * self.row_length * self.mean_length))

    def scores(
        self,
        products: Float[Tensor, "..."],
        squares: Float[Tensor, "..."],
        counts: Float[Tensor, "..."],
    ) -> Float[Tensor, "..."]:
        """s of products x.m / |x|, for means with these squared lengths, of so many examples."""
        return self.factor(squares, counts).mul_(products).add_(self.bias(squares, counts))


def _weight(counts: Tensor) -> Tensor:
    return WEIGHT * (1 - 1 / counts)
