"""What a protocol finds, and what shows how far it is."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

Bar = Callable[[Iterable[int]], Iterable[int]]
"""What shows progress: `tqdm`, `rich.progress.track`, or `iter`, which shows nothing."""


class Accuracy(NamedTuple):
    """A mean over episodes, with the half width of its 95 % interval; both in [0, 1].

    One episode alone has an infinite interval.

    Example:
        >>> import torch
        >>> print(Accuracy.of(torch.tensor([1.0, 0.8, 0.9, 0.9])))
        90.00 ± 8.00
    """

    mean: float
    interval: float

    @classmethod
    def of(cls, episodes: Float[Tensor, " episodes"]) -> "Accuracy":
        """From the accuracy of each episode: mean +- 1.96 s / sqrt(n)."""
        spread = episodes.std().item() if len(episodes) > 1 else math.inf
        return cls(episodes.mean().item(), 1.96 * spread / math.sqrt(len(episodes)))

    def __str__(self) -> str:
        return f"{100 * self.mean:.2f} ± {100 * self.interval:.2f}"
