"""Selections: which few of a class's examples stand for all of it."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from rarememory.base.validation import check_count

Centre = Float[Tensor, " key_dim"] | None


@runtime_checkable
class Selection(Protocol):
    """Chooses at most `count` of the rows of a class.

    Example:
        >>> from dataclasses import dataclass
        >>> from rarememory import MemoryClassifier
        >>> @dataclass(frozen=True)
        ... class TheFirst:
        ...     count: int
        ...     def __call__(self, rows, centre=None):
        ...         return torch.arange(min(self.count, len(rows)))
        >>> birds = MemoryClassifier(torch.nn.Identity(), host=False)
        >>> birds.learn(torch.eye(3), ["kea", "kea", "weka"], select=TheFirst(1)).slots
        tensor([ 0, -1,  1])
    """

    @property
    def count(self) -> int:
        """Rows of a class that are chosen."""
        ...

    def __call__(
        self, rows: Float[Tensor, "rows key_dim"], centre: Centre = None
    ) -> Int64[Tensor, " chosen"]:
        """The places of the chosen rows, each once, best first.

        Args:
            rows: of one class, of unit length.
            centre: the sum of all rows of the class, if these are not all of them.
        """
        ...


@dataclass(frozen=True)
class Herding:
    """Examples whose mean is nearest to that of the class, one after the other.

    p_k = argmin_x |mu - 1/k (x + sum_{j<k} p_j)|,  k = 1 ... count

    (Rebuffi et al. 2017, "iCaRL", algorithm 4.) As all vectors there, both means are put at unit
    length, so the greatest cosine decides; of those equal to six decimals the lower row. No row is
    chosen twice.

    Args:
        count: rows to choose.

    Raises:
        ValueError: the count is no integer of at least 1.

    Example:
        >>> rows = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2], [0.0, 1.0], [1.0, 1.0]]))
        >>> Herding(2)(rows)
        tensor([2, 1])
    """

    count: int

    def __post_init__(self) -> None:
        check_count("count", self.count)

    def __call__(
        self, rows: Float[Tensor, "rows key_dim"], centre: Centre = None
    ) -> Int64[Tensor, " chosen"]:
        """The places of the chosen rows, in the order they are chosen in."""
        rows, centre = _on_host(rows, centre)
        total, chosen = torch.zeros_like(centre), list[int]()
        for _ in range(min(self.count, len(rows))):
            sums = total + rows
            # Rows that cancel have no mean, and come last but for those that are chosen.
            cosines = (sums * centre).sum(1) / torch.linalg.vector_norm(sums, dim=1)
            cosines = _rounded(cosines.nan_to_num(nan=-2.0))
            cosines[chosen] = -torch.inf
            chosen.append(int(cosines.argmax()))
            total = total + rows[chosen[-1]]
        return torch.tensor(chosen, dtype=torch.int64)


@dataclass(frozen=True)
class ClosestToCentre:
    """Examples that are themselves nearest to the mean of the class.

    The first of `Herding` is also the first here; the next ones may be much like it. Of cosines
    that are equal to six decimals the lower row is chosen.

    Args:
        count: rows to choose.

    Raises:
        ValueError: the count is no integer of at least 1.

    Example:
        >>> rows = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2], [0.0, 1.0], [1.0, 1.0]]))
        >>> ClosestToCentre(2)(rows)
        tensor([2, 0])
    """

    count: int

    def __post_init__(self) -> None:
        check_count("count", self.count)

    def __call__(
        self, rows: Float[Tensor, "rows key_dim"], centre: Centre = None
    ) -> Int64[Tensor, " chosen"]:
        """The places of the chosen rows, the nearest first."""
        rows, centre = _on_host(rows, centre)
        cosines = _rounded((rows * centre).sum(1))
        return cosines.argsort(descending=True, stable=True)[: self.count]


def _on_host(rows: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor]:
    """In float64 on the CPU: what is chosen is the same on every device."""
    rows = normalize(rows.detach().cpu().double(), dim=1)
    centre = rows.sum(0) if centre is None else centre.detach().cpu().double()
    return rows, normalize(centre, dim=0)


def _rounded(cosines: Tensor) -> Tensor:
    """Two rows are as near to their mean as each other: the rounding of keys must not decide."""
    return (cosines * 1e6).round()
