"""What a protocol finds, and what shows how far it is."""

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Bar = Callable[[Iterable[int]], Iterable[int]]
"""What shows progress: `tqdm`, `rich.progress.track`, or `iter`, which shows nothing."""


@lru_cache
def student_t(degrees: int) -> float:
    """The t with P(|T| <= t) = 0.95 for Student's distribution of so many degrees of freedom.

    With cos(a)^2 = degrees / (degrees + t^2), P is a finite series in cos(a) (Abramowitz and Stegun
    1964, equations 26.7.3 and 26.7.4); t is found by bisection. (scipy is no dependency.)

    Raises:
        ValueError: `degrees` is less than 1.

    Example:
        >>> [round(student_t(n), 3) for n in (1, 2, 19, 1000)]
        [12.706, 4.303, 2.093, 1.962]
    """
    if degrees < 1:
        raise ValueError(f"degrees is {degrees}: an interval needs at least 2 observations")
    odd, n_terms = degrees % 2, degrees // 2
    j = torch.arange(1, max(1, n_terms), dtype=torch.float64)
    ratios = (2 * j - 1 + odd) / (2 * j + odd)
    terms = torch.cat([j.new_ones(1), ratios.cumprod(0)])[:n_terms]
    powers = 2 * torch.arange(n_terms, dtype=torch.float64) + odd

    def probability(angle: float) -> float:
        series = math.sin(angle) * (terms * math.cos(angle) ** powers).sum().item()
        return 2 / math.pi * (angle + series) if odd else series

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if probability(middle) < 0.95 else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


class Accuracy(NamedTuple):
    """A mean over episodes, with the half width of its 95 % interval; both in [0, 1].

    One episode alone has an infinite interval.

    Example:
        >>> import torch
        >>> print(Accuracy.of(torch.tensor([1.0, 0.8, 0.9, 0.9])))
        90.00 ± 12.99
    """

    mean: float
    interval: float

    @classmethod
    def of(cls, episodes: Float[Tensor, " episodes"]) -> "Accuracy":
        """From the accuracy of each episode: mean +- t s / sqrt(n), t of Student's distribution."""
        n = len(episodes)
        spread = student_t(n - 1) * episodes.std().item() if n > 1 else math.inf
        return cls(episodes.mean().item(), spread / math.sqrt(n))

    def __str__(self) -> str:
        return f"{100 * self.mean:.2f} ± {100 * self.interval:.2f}"
