"""What processes do together: they tell each other, so that none does another thing."""

import zlib
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from rarememory.distributed.ranks import Own, Ranks, Words


class Verb(IntEnum):
    """What all processes do at once."""

    READ, WRITE, RECORD, FORGET, CLEAR, COUNT, LOAD, STATS, RESIZE = range(9)


class Agreement(NamedTuple):
    """Processes that do one thing at a time, all of them the same.

    Attributes:
        ranks: the processes.
        words: of a row that they tell each other of.

    Example:
        >>> alone = Agreement(Ranks(torch.device("cpu")), words=2)
        >>> alone.tell(Verb.RESIZE, lambda: ("mine", [7]), same=1)
        ('mine', [[7, 0, 0]])
    """

    ranks: Ranks
    words: int

    def tell(
        self, verb: Verb, work: Callable[[], tuple[Own, list[int]]], same: int
    ) -> tuple[Own, list[list[int]]]:
        """As `tell_rows`, without rows."""
        none = torch.empty(0, self.words, dtype=torch.int64, device=self.ranks.device)
        own, every, _, _ = self.tell_rows(verb, lambda: (*work(), none), same)
        return own, every

    def tell_rows(
        self, verb: Verb, work: Callable[[], tuple[Own, list[int], Words]], same: int
    ) -> tuple[Own, list[list[int]], list[int], Words]:
        """What this process finds, numbers of all, and how many rows each has; and the rows of all.

        Args:
            verb: what this process does.
            work: finds what it has to tell: numbers, and rows.
            same: of the numbers so many must be those of the other processes.

        Raises:
            ValueError: these numbers differ, or what the processes do.
        """

        def told() -> tuple[Own, list[int], Tensor]:
            own, numbers, rows = work()
            # As many for every verb: processes that do different things understand each other.
            return own, [verb, *numbers, *[0] * (_MOST_NUMBERS - len(numbers))], rows

        own, every, counts, rows = self.ranks.tell_rows(told, 1 + _MOST_NUMBERS, self.words)
        if len({tuple(numbers[: 1 + same]) for numbers in every}) > 1:
            did = ", ".join(f"{Verb(of).name.lower()} {told[:same]}" for of, *told in every)
            raise ValueError(f"all processes must do the same, with the same numbers, not {did}")
        return own, [numbers[1:] for numbers in every], counts, rows


def fingerprint(text: str) -> int:
    """A number by which texts that must be the same on all processes are told apart."""
    return zlib.crc32(text.encode())


_MOST_NUMBERS = 3
"""That a process tells of what it does."""
