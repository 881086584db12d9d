"""A campaign: tries without end, and which of their outcomes are right."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

Tries = Iterator[str]
"""The outcome of one try after another: a word, and if wished a colon and details after it."""


class Campaign(NamedTuple):
    """Tries without end of one kind.

    Attributes:
        name: one word, which the figures begin with: `soak.<name>.<outcome>`.
        goal: tries that a published result has at least.
        right: the words of the outcomes that keep what is promised; any other is a fault.
        tries: makes the tries in an empty folder, from a seed.
        patience: seconds that a try may take; a longer one counts as `hang`.
        parts: campaigns of which each ends at its goal, and which are this one's goal together.
    """

    name: str
    goal: int
    right: frozenset[str]
    tries: Callable[[Path, int], Tries]
    patience: float = 60.0
    parts: tuple["Campaign", ...] = ()
