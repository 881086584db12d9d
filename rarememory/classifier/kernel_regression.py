"""Classes regressed on examples by a kernel, and what it says of those that are left out.

    k(x, x') = exp(-w |x - x'|^2)                   f(x) = R^-1 k(x),    R R^T = K
    b = A^-1 F^T D^-1 (Y - l)                       A = F^T D^-1 F + r I

Kernel ridge regression (Saunders et al. 1998). The classes are written as 0 and 1 in Y; f(x) . b is
what is added to l. k(x) are the kernels of x with at most 1,000 of the examples, and K those of
these with each other: f(x) . f(x') is k(x, x') exactly where they are all of the examples, and
close to it elsewhere (Williams and Seeger 2001). Where every class has the same weight, D_i is
n_c C / N for an example i of the class c, and l is 1 / C; where every example has, D_i is 1, and
l_c is n_c / N. The columns of x count as `telling` says.

Leaving out is closed form. Without example i, b is b - A^-1 f_i e_i / (D_i - f_i . A^-1 f_i), where
e_i is what is missing at i; without several, the same with a matrix. An example that is left out
asks with columns that have not seen it either: of few examples with many columns nearly every
answer would seem right else.
"""

from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

MOST = 8192
"""Examples that are regressed on; beyond them, as many of each class as there are for it."""
CENTRES = 1000
"""Of them, examples whose kernels carry the regression."""
JUDGED = 2048
"""Of them, examples that are left out."""
TRIED = 400
"""Of them, examples that width, ridge and scale are found with; two of each class at least."""
_WIDTHS = tuple(2.0**i for i in range(-4, 5))
"""Over the median of the squared distances."""
_RIDGES = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0)
_SCALES = (2.0, 4.0, 8.0, 16.0)
_LEAST_SHARE = 0.05
"""Of the variance of a column between classes: it may tell them apart together with another."""
_JITTER = 1e-9
"""Added to the kernel of an example with itself, at least: there may be equal ones."""


class Telling(NamedTuple):
    """What the squared difference of each column counts, so that distances tell classes apart.

    Attributes:
        weights: of the columns, by all examples.
        within: the squares of examples less the mean of their class, summed.
        whole: the variance of all examples.
        degrees: of freedom of `within`, and one.
        means: of the classes.
        counts: examples of each class.
    """

    weights: Float[Tensor, " columns"]
    within: Float[Tensor, " columns"]
    whole: Float[Tensor, " columns"]
    degrees: int
    means: Float[Tensor, "classes columns"]
    counts: Float[Tensor, " classes"]

    @property
    def roots(self) -> Float[Tensor, " columns"]:
        """With which columns are scaled, so that all squared differences count the same."""
        return self.weights.sqrt()

    def without(
        self, rows: Float[Tensor, "some columns"], places: Int64[Tensor, " some"]
    ) -> Float[Tensor, "some columns"]:
        """What the squared differences of scaled columns count for each, by all the others.

        Args:
            rows: some of the examples, scaled.
            places: the class of each.
        """
        roots = self.roots.where(self.weights > 0, 1.0)
        n = self.counts[places].unsqueeze(1)
        # Without x of a class of n the mean moves by r / (n - 1), and r^2 n / (n - 1) is lost.
        lost = (rows / roots - self.means[places]).square() * n / (n - 1).clamp(min=1)
        found = _weights((self.within - lost).clamp(min=0), self.whole, max(1, self.degrees - 1))
        return found.where(n > 1, self.weights) / roots.square()


def telling(
    rows: Float[Tensor, "examples columns"],
    places: Int64[Tensor, " examples"],
    counts: Float[Tensor, " classes"],
) -> Telling:
    """s / w: w is the variance within classes and s = 1 - w / t, 0.05 at least.

    s is the share between classes of the whole variance t. Of examples of one class x - x' has the
    variance 2 w, of two classes 2 t. So the log-odds of one class to two (Ioffe 2006, probabilistic
    linear discriminant analysis) are -(x - x')^2 s / (4 w), but for a constant, and the kernel is
    their exponential. One example more, of variance t, is counted in w: few examples may be close
    to each other by chance. A column that is the same everywhere, but for rounding, counts nothing.

    Args:
        rows: examples.
        places: the class of each, 0, 1, ...
        counts: examples of each class.

    Example:
        >>> rows = torch.tensor([[0.0, 3.0], [0.1, 9.0], [9.0, 3.0], [9.1, 9.0]])
        >>> found = telling(rows, torch.tensor([0, 0, 1, 1]), torch.tensor([2.0, 2.0]))
        >>> bool(found.weights[0] > 25 * found.weights[1])
        True
    """
    sums = rows.new_zeros(len(counts), rows.shape[1]).index_add_(0, places, rows)
    means = sums / counts.unsqueeze(1)
    within, whole = (rows - means[places]).square().sum(0), (rows - rows.mean(0)).square().mean(0)
    degrees = len(rows) - len(counts) + 1
    return Telling(_weights(within, whole, degrees), within, whole, degrees, means, counts)


def _weights(within: Tensor, whole: Tensor, degrees: int) -> Tensor:
    variance = (within + whole) / degrees
    share = (1 - variance / whole).clamp(min=_LEAST_SHARE)
    return (share / variance).where(whole > 1e-12 * whole.max(), 0.0)


class Samples(NamedTuple):
    """Examples that are regressed on.

    Attributes:
        examples: which of all examples.
        rows: each, in columns that count as they tell the classes apart.
        places: the place of each one's class.
        targets: Y - l, and a column of ones.
        weights: D.
        level: l, of each class.
    """

    examples: Int64[Tensor, " samples"]
    rows: Float[Tensor, "samples columns"]
    places: Int64[Tensor, " samples"]
    targets: Float[Tensor, "samples outputs"]
    weights: Float[Tensor, " samples"]
    level: Float[Tensor, " classes"]

    @classmethod
    def of(
        cls,
        rows: Float[Tensor, "examples columns"],
        places: Int64[Tensor, " examples"],
        count: int,
        most: int,
        *,
        equal: bool = True,
    ) -> "Samples":
        """At most so many of the examples, which come class by class.

        Args:
            rows: examples, in columns that count as they tell the classes apart.
            places: the class of each.
            count: how many classes there are.
            most: samples.
            equal: whether every class has the same weight, or every sample.
        """
        some = balanced(places, most)
        places = places[some]
        own = one_hot(places, count).to(rows)
        sizes = own.sum(0)
        level = sizes.new_full((count,), 1 / count) if equal else sizes / len(some)
        weights = sizes * count / len(some) if equal else torch.ones_like(sizes)
        targets = torch.cat([own - level, torch.ones_like(own[:, :1])], 1)
        return cls(some, rows[some], places, targets, weights[places], level)

    def at(self, some: Tensor) -> "Samples":
        """Some of them."""
        return self._replace(**{name: getattr(self, name)[some] for name in self._fields[:-1]})


def balanced(places: Int64[Tensor, " examples"], most: int) -> Int64[Tensor, " some"]:
    """At most so many examples, of no class more than of another that has more; evenly spaced.

    Args:
        places: the class of each, ascending.
        most: examples; but each class has one.

    Example:
        >>> balanced(torch.tensor([0] * 7 + [1] * 2), 5)
        tensor([2, 4, 6, 7, 8])
    """
    counts = torch.bincount(places)
    quotas = range(2, int(counts.max()) + 1)
    quota = 1 + bisect_right(quotas, most, key=lambda quota: int(counts.clamp(max=quota).sum()))
    wanted, n = counts.clamp(max=quota)[places], counts[places]
    at = torch.arange(len(n), device=n.device) - torch.searchsorted(places, places)
    return ((at + 1) * wanted // n > at * wanted // n).nonzero().squeeze(1)


@dataclass(frozen=True)
class Regression:
    """The classes regressed on samples.

    Attributes:
        samples: of which it is.
        centres: rows whose kernels carry it.
        root: R^-T.
        inverse: A^-1.
        coefficients: b; and behind them those of ones, for where a class is left out.
        duals: R^-T b: what the kernel with each centre adds to every class.
        width: w.
        ridge: r.
    """

    samples: Samples
    centres: Float[Tensor, "centres columns"]
    root: Float[Tensor, "centres centres"]
    inverse: Float[Tensor, "centres centres"]
    coefficients: Float[Tensor, "centres outputs"]
    duals: Float[Tensor, "centres classes"]
    width: float
    ridge: float

    def values(self, rows: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch classes"]:
        """f(x) . b + l."""
        return kernel(rows, self.centres, self.width) @ self.duals + self.samples.level

    def left_out(
        self, samples: Samples, own: Float[Tensor, "some columns"]
    ) -> Float[Tensor, "some classes"]:
        """The same of each of these samples if it had not been seen.

        Args:
            samples: some of those that this is of.
            own: what the squared differences of their columns count for each, by all the others.
        """
        f = kernel(samples.rows, self.centres, self.width) @ self.root
        solved = f @ self.inverse
        missed = (samples.targets - f @ self.coefficients)[:, :-1]
        missed = missed / (samples.weights - (solved * f).sum(1)).unsqueeze(1)
        asked = torch.exp(-self.width * _squares_by(own, samples.rows, self.centres))
        moved = ((asked @ self.root) * solved).sum(1, keepdim=True)
        return asked @ self.duals - moved * missed + self.samples.level

    def foreign(
        self, rows: Float[Tensor, "batch columns"], own: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch classes"]:
        """The same if the class in this place had never been learnt; -inf for that."""
        kernels, level = kernel(rows, self.centres, self.width), self.samples.level
        found = kernels.new_full((len(rows), len(level)), -torch.inf)
        for place in own.unique().tolist():
            asked = own == place
            # Of the others.
            share = level / (1 - level[place]).clamp(min=1e-9)
            left = self.root @ self._without_class(self.samples.places == place, share)
            found[asked] = kernels[asked] @ left + share
        return found.scatter(1, own.unsqueeze(1), -torch.inf)

    def _without_class(self, gone: Tensor, level: Tensor) -> Tensor:
        """b without some samples; the targets of the others are less this level."""
        # The smaller of two matrices: of the samples that go, or of the centres.
        few = int(gone.sum()) <= len(self.centres)
        samples = self.samples.at(gone if few else ~gone)
        f = kernel(samples.rows, self.centres, self.width) @ self.root
        if few:
            solved = f @ self.inverse
            missed = samples.targets - f @ self.coefficients
            lost = torch.linalg.solve(samples.weights.diag() - solved @ f.T, missed)
            left = self.coefficients - solved.T @ lost
        else:
            weighted = f.T / samples.weights
            matrix = weighted @ f
            matrix.diagonal().add_(self.ridge)
            left = torch.linalg.solve(matrix, weighted @ samples.targets)
        found: Tensor = left[:, :-1] + (samples.level - level) * left[:, -1:]
        return found


def regressed(samples: Samples, width: float, ridge: float) -> Regression:
    """The regression of these samples."""
    centres = samples.rows[balanced(samples.places, CENTRES)]
    of_centres = kernel(centres, centres, width)
    # Of two rows that are far from 0, beside the width, the distance has lost digits.
    lost = 1 + width * centres.square().sum(1).amax().item()
    rounding = len(centres) * torch.finfo(centres.dtype).eps * lost
    of_centres.diagonal().add_(max(_JITTER, rounding))
    unit = torch.eye(len(centres), device=centres.device, dtype=centres.dtype)
    root = torch.linalg.solve_triangular(torch.linalg.cholesky(of_centres), unit, upper=False).T
    f = kernel(samples.rows, centres, width) @ root
    weighted = f.T / samples.weights
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(weighted @ f + ridge * unit))
    coefficients = inverse @ (weighted @ samples.targets)
    duals = root @ coefficients[:, :-1]
    return Regression(samples, centres, root, inverse, coefficients, duals, width, ridge)


class FittedSettings(NamedTuple):
    """What answers samples best that are left out.

    Attributes:
        width: w.
        ridge: r.
        scale: what values are multiplied with to be logits.
        left_out: the values of each sample, itself left out.
    """

    width: float
    ridge: float
    scale: float
    left_out: Float[Tensor, "samples classes"]


def fitted_settings(samples: Samples, own: Float[Tensor, "samples columns"]) -> FittedSettings:
    """Width, ridge and scale of greatest likelihood of the samples, each of them left out.

    Here all samples carry the regression: b is R^T a, with a = G (Y - l), G = (K + r D)^-1, and
    without sample i, a is a - G_i a_i / G_ii.

    Args:
        samples: with a class that has several of them.
        own: what the squared differences of their columns count for each, by all the others.
    """
    squares = torch.cdist(samples.rows, samples.rows).square()
    own_squares = _squares_by(own, samples.rows, samples.rows)
    unit = _median(squares)
    roots = samples.weights.sqrt().unsqueeze(1)
    counts = torch.bincount(samples.places)
    several = counts[samples.places] > 1
    labels = samples.places[several]
    judged = 1 / samples.weights[several]
    judged = judged / judged.sum()

    @cache
    def best(place: int) -> tuple[float, FittedSettings]:
        width = _WIDTHS[place] / unit
        # The same eigenvectors serve every ridge: K + r D = D^1/2 (D^-1/2 K D^-1/2 + r) D^1/2.
        values, vectors = torch.linalg.eigh(torch.exp(-width * squares) / roots / roots.T)
        projected = vectors.T @ (samples.targets[:, :-1] / roots)
        vectors = vectors / roots
        asked = torch.exp(-width * own_squares) @ vectors
        found = []
        for ridge in _RIDGES:
            inverse = 1 / (values.clamp(min=0) + ridge)
            moved = (asked * vectors) @ inverse / (vectors.square() @ inverse)
            duals = vectors * inverse @ projected
            left_out = asked * inverse @ projected - moved.unsqueeze(1) * duals + samples.level
            for scale in _SCALES:
                losses = cross_entropy(scale * left_out[several], labels, reduction="none")
                loss = (judged * losses).sum().item()
                found.append((loss, FittedSettings(width, ridge, scale, left_out)))
        return min(found, key=itemgetter(0))

    place = len(_WIDTHS) // 2
    while place + 1 < len(_WIDTHS) and best(place + 1)[0] < best(place)[0]:
        place += 1
    while place and best(place - 1)[0] < best(place)[0]:
        place -= 1
    return best(place)[1]


def kernel(
    one: Float[Tensor, "one columns"], other: Float[Tensor, "other columns"], width: float
) -> Float[Tensor, "one other"]:
    """exp(-w |x - x'|^2)."""
    return torch.exp(-width * torch.cdist(one, other).square())


def _median(squares: Tensor) -> float:
    """That of the squared distances that are not 0."""
    apart = squares[squares > 1e-9]
    return apart.median().item() if len(apart) else 1.0


def _squares_by(own: Tensor, rows: Tensor, others: Tensor) -> Tensor:
    """Squared distances to others, by what columns count for each row."""
    weighted = rows * own
    squares: Tensor = (weighted * rows).sum(1, keepdim=True)
    squares = squares + own @ others.square().T - 2 * weighted @ others.T
    return squares.clamp(min=0)
