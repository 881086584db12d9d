"""A finished cell: the seconds of every candidate, with quartiles, ratios and the best rival."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.lookup.bench import Facts
from benchmarks.lookup.candidates import OURS, Description
from benchmarks.lookup.cells import Cell
from benchmarks.lookup.interleaved import Seconds
from benchmarks.lookup.roofline import Ceilings, floor

HEADLINE = {"cpu": "shared", "cuda": "events"}
"""The pass of figures whose key names no other."""
SECOND = {"cpu": "alone", "cuda": "graph"}
CHAMPIONS = {"cpu": ("auto",), "cuda": ("triton", "auto")}
"""Who represents the package: on a GPU the lookup that takes keys in half precision."""


class Spread(NamedTuple):
    """A median between its quartiles."""

    low: float
    median: float
    high: float


def spread(numbers: Sequence[float]) -> Spread:
    """Quartiles; those of one number are itself."""
    if len(numbers) == 1:
        return Spread(*3 * [numbers[0]])
    return Spread(*statistics.quantiles(numbers, n=4, method="inclusive"))


def ratio(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> Spread:
    """The seconds of one by those of another, round by round, over the rounds of both."""
    # Everyone takes part from the first round on, and the slow leave after a few.
    rounds = zip(one, other, strict=False)
    return spread([statistics.median(mine) / statistics.median(theirs) for mine, theirs in rounds])


@dataclass
class Outcome:
    """A finished cell: why it was dropped, or what was refused, found out and timed, by name.

    The passes are `shared` (one process for all) and `alone` (one for each backend) on a CPU, and
    `events` and `graph` on a GPU; `foreign` is the share of the machine that other programs took.
    """

    cell: Cell
    dropped: str | None = None
    candidates: dict[str, Description] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)
    passes: dict[str, Seconds] = field(default_factory=dict)
    foreign: dict[str, float | None] = field(default_factory=dict)

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> "Outcome":
        """The outcome of which `dataclasses.asdict` made this."""
        return cls(**{**state, "cell": Cell(**state["cell"])})

    def seconds(self, label: str, name: str) -> Spread:
        """Of all calls of a candidate in one pass."""
        return spread([call for round_ in self.passes[label][name] for call in round_])

    def ratio(self, label: str, name: str | None, other: str) -> Spread | None:
        """The seconds of one candidate by those of another; None unless both were timed."""
        timed = self.passes.get(label, {})
        return ratio(timed[name], timed[other]) if name in timed and other in timed else None

    def best_rival(self, label: str, fits: Callable[[str], bool] | None = None) -> str | None:
        """The rival with the lowest median that fits, which is by default every exact one."""
        rivals = [
            name
            for name in self.passes.get(label, {})
            if self.candidates[name]["family"] != OURS
            and not self.candidates[name]["product"]
            and (fits(name) if fits else self.candidates[name]["exact"])
        ]
        return min(rivals, key=lambda name: self.seconds(label, name).median, default=None)

    def speedup(
        self, label: str, name: str, fits: Callable[[str], bool] | None = None
    ) -> Spread | None:
        """How many times as fast as the best rival."""
        return self.ratio(label, self.best_rival(label, fits), name)

    def family(self, name: str) -> str:
        """Who made it."""
        return self.candidates[name]["family"]

    def best_of_families(self, label: str) -> list[str]:
        """All of ours, then the fastest of every family, then bare products."""
        timed = self.passes.get(label, {})
        shown = [name for name in timed if self.family(name) == OURS]
        for family in dict.fromkeys(map(self.family, timed)):
            best = self.best_rival(label, lambda name, f=family: self.family(name) == f)  # type: ignore[misc]
            shown += [best] if best is not None else []
        return shown + [name for name in timed if self.candidates[name]["product"]]

    def champion(self, device: str) -> str | None:
        """Who represents the package in this cell."""
        timed = self.passes.get(HEADLINE[device], {})
        return next((name for name in CHAMPIONS[device] if name in timed), None)

    def roofline_fraction(self, label: str, name: str, ceilings: Ceilings) -> float:
        """The floor of the roofline by the median."""
        least = floor(self.cell, self.candidates[name]["reads"], ceilings)
        return least / self.seconds(label, name).median
