"""How near a row is to the mean of a class: between a cosine and linear discriminant analysis.

    s(x, m) = (1 - w) cos(x, m)  +  w (x.m / |x| - (|m|^2 - v / n - q) / 2r) / l,   w = (n - 1) / 2n

All products are in the metric of the examples. A cosine asks for the direction of a mean and not
for its length, which is short where the examples of a class have little in common. Discriminant
analysis (Fisher 1936) asks for both: its logit is x.m - |m|^2 / 2, here for a row of the mean
length r and in units of the mean length l of the means. The length of a single example says nothing
of its class, so its weight w is 0, and it grows to a half with the number n of examples. Of |m|^2,
v / n is what so few examples vary; v is the expected square of an example's distance from its mean.
The mean q of what remains is taken away from all classes alike, so that scores are about as great
as cosines.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

WEIGHT = 0.5
"""Of discriminant analysis, for classes of many examples. Of 0, 1/2 and 1, the one with which the
fewest of ten sets of photos, sentences and sounds lose; see docs/results.md."""
_SMALLEST = 1e-9


class Lengths(NamedTuple):
    """Lengths in a metric.

    Attributes:
        mean: l.
        row: r.
        variance: v.
        typical: q.
    """

    mean: Float[Tensor, ""]
    row: Float[Tensor, ""]
    variance: Float[Tensor, ""]
    typical: Float[Tensor, ""]

    @classmethod
    def of(
        cls,
        squares: Float[Tensor, " classes"],
        counts: Float[Tensor, " classes"],
        row: Float[Tensor, ""],
        variance: Float[Tensor, ""],
    ) -> "Lengths":
        """Those of class means with these squared lengths, of so many examples each."""
        mean = squares.clamp(min=_SMALLEST).sqrt().mean()
        typical = (squares - variance / counts).mean()
        return cls(mean, row.clamp(min=_SMALLEST**0.5), variance, typical)

    def factor(
        self, squares: Float[Tensor, "..."], counts: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """What multiplies x.m / |x|, for means with these squared lengths, of so many examples."""
        inverse = squares.clamp(min=_SMALLEST).rsqrt()
        return inverse + _weight(counts) * (1 / self.mean - inverse)

    def bias(
        self, squares: Float[Tensor, "..."], counts: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """What is added to that product.

        Example:
            >>> squares, counts = torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0])
            >>> lengths = Lengths.of(squares, counts, torch.tensor(2.0), torch.tensor(1.0))
            >>> lengths.factor(squares, counts), lengths.bias(squares, counts)
            (tensor([0.9167, 0.5417]), tensor([ 0.0625, -0.0625]))
        """
        surplus = squares - self.variance / counts - self.typical
        return surplus * (_weight(counts) / (-2 * self.row * self.mean))

    def scores(
        self,
        products: Float[Tensor, "..."],
        squares: Float[Tensor, "..."],
        counts: Float[Tensor, "..."],
    ) -> Float[Tensor, "..."]:
        """s of products x.m / |x|, for means with these squared lengths, of so many examples."""
        return torch.addcmul(self.bias(squares, counts), products, self.factor(squares, counts))


def _weight(counts: Tensor) -> Tensor:
    return WEIGHT * (1 - 1 / counts)
