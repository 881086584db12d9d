"""One cell from laying it out to the seconds of everyone, whoever may fail on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol, TypedDict

from benchmarks.lookup.bench import Badge, Facts
from benchmarks.lookup.cells import Cell
from benchmarks.lookup.clock import Foreign
from benchmarks.lookup.contestants import OURS
from benchmarks.lookup.remote import Gone, Remote
from benchmarks.lookup.turns import Seconds, fast, in_turns


class Asked(Protocol):
    """A bench that is asked by the name of a verb: `Remote`, or one that a test makes up."""

    @property
    def processes(self) -> list[int]:
        """The processes that work for it."""

    def ask(self, verb: str, *given: Any, seconds: float = ..., **more: Any) -> Any:
        """What the bench answers."""

    def close(self) -> None:
        """End it."""


class Outcome(TypedDict):
    """A finished cell. `dropped` says why there is nothing in it, `refused` why someone is not.

    The passes are `shared` (one process for all) and `alone` (one for each backend) on a CPU, and
    `events` and `graph` on a GPU; `foreign` is the share of the machine that others took meanwhile.
    """

    name: str
    cell: dict[str, Any]
    dropped: str | None
    who: dict[str, Badge]
    refused: dict[str, str]
    facts: dict[str, Facts]
    passes: dict[str, Seconds]
    foreign: dict[str, float | None]


def empty_outcome(cell: Cell, dropped: str | None = None) -> Outcome:
    """Nothing yet, or nothing at all."""
    return Outcome(
        name=cell.name,
        cell=asdict(cell),
        dropped=dropped,
        who={},
        refused={},
        facts={},
        passes={},
        foreign={},
    )


class Contest:
    """All cells one after the other, on one bench for all and one for each backend.

    Args:
        shared: the bench where everyone is checked and timed.
        alone: a bench of its own for each backend; without any there is no such pass.
        modes: how the shared bench times, and what the results call it.
        seconds: budget of a cell and pass.
        limit: whoever needs longer for one call is left out of the cell.
        without: names that do not take part.
    """

    def __init__(
        self,
        shared: Asked,
        *,
        alone: Mapping[str, Asked] | None = None,
        modes: Mapping[str, str],
        seconds: float,
        limit: float,
        without: Sequence[str] = (),
    ) -> None:
        self.shared, self.alone, self.modes = shared, alone, modes
        self.seconds, self.limit, self.without = seconds, limit, without
        self.faults: dict[str, str] | None = None

    def play(self, cell: Cell) -> Outcome:
        """Check everyone, then time those who were right."""
        if self.faults is None:
            self.faults = self.shared.ask("trials")
        try:
            return self._play(cell)
        except (Gone, MemoryError, RuntimeError) as error:
            return empty_outcome(cell, str(error))

    def _play(self, cell: Cell) -> Outcome:
        outcome = empty_outcome(cell)
        self.shared.ask("lay", cell)
        outcome["who"] = self.shared.ask("contestants", cell.pair)
        for name in outcome["who"]:
            self._check(cell, name, outcome)
        for label, mode in self.modes.items():
            with Foreign(self.shared.processes) as foreign:
                outcome["passes"][label] = self._timed(mode, label, outcome)
            outcome["foreign"][label] = foreign.share
        if self.alone is not None:
            self._play_alone(cell, outcome)
        return outcome

    def _check(self, cell: Cell, name: str, outcome: Outcome) -> None:
        assert self.faults is not None
        if name in self.without:
            outcome["refused"][name] = "left out by --without"
        elif name in self.faults:
            outcome["refused"][name] = f"wrong in a small case: {self.faults[name]}"
        else:
            try:
                # An answer takes as long as it takes to prepare, to check, and to measure.
                patience = 60 + 10 * self.limit
                facts: Facts = self.shared.ask("check", name, self.limit, seconds=patience)
            except (Gone, RuntimeError) as error:
                facts = {"refused": str(error)}
                self._lay_again(cell, error, [n for n in outcome["facts"] if n != name])
            if "refused" in facts:
                outcome["refused"][name] = facts.pop("refused")
            outcome["facts"][name] = facts

    def _lay_again(self, cell: Cell, error: BaseException, names: Sequence[str]) -> None:
        """After a process has died another one takes its place, and all sit down again."""
        if isinstance(error, Gone):
            self.shared.ask("lay", cell)
            for name in names:
                self.shared.ask("check", name, self.limit, checked=False)

    def _timed(self, mode: str, label: str, outcome: Outcome) -> Seconds:
        def visit(name: str) -> list[float]:
            seconds: list[float] = self.shared.ask("visit", name, mode)
            return seconds

        present = []
        for name in outcome["who"]:
            if name not in outcome["refused"]:
                try:
                    if mode == "graph":
                        # Some can be called, but not captured.
                        visit(name)
                    present.append(name)
                except RuntimeError as error:
                    outcome["refused"][f"{name} ({label})"] = str(error)
        return in_turns(
            {name: group(outcome["who"][name]) for name in present}, visit, self.seconds
        )

    def _play_alone(self, cell: Cell, outcome: Outcome) -> None:
        """Ours, and whoever could be the best rival, each backend in its own process."""
        assert self.alone is not None
        shared = outcome["passes"]["shared"]
        close = fast(shared, {name: group(outcome["who"][name]) for name in shared})
        home: dict[str, Asked] = {}
        for name, badge in outcome["who"].items():
            mine = name in shared and (badge["family"] == OURS or name in close)
            if mine and backend(name, badge) in self.alone:
                home[name] = self.alone[backend(name, badge)]
        for bench in dict.fromkeys(home.values()):
            bench.ask("lay", cell, checked=False)
        ready = [
            name
            for name, bench in home.items()
            if "refused" not in bench.ask("check", name, self.limit, checked=False)
        ]
        with Foreign([pid for bench in home.values() for pid in bench.processes]) as foreign:
            outcome["passes"]["alone"] = in_turns(
                {name: group(outcome["who"][name]) for name in ready},
                lambda name: home[name].ask("visit", name, "wall"),
                self.seconds / 2,
            )
        outcome["foreign"]["alone"] = foreign.share


def backend(name: str, badge: Badge) -> str:
    """Who shares a process: a rival with its family, one of ours with nobody but its reading."""
    return name.removesuffix(".ordered") if badge["family"] == OURS else badge["family"]


def group(badge: Badge) -> str:
    """Whose fastest is of interest: ours, bare products, those that are exact, those that round."""
    if badge["family"] == OURS:
        return OURS
    if badge["product"]:
        return "product"
    return "exact" if badge["exact"] else "rounded"


def remotes(device: str, seed: int, who: Mapping[str, Badge]) -> dict[str, Asked]:
    """A process for every backend, started when it is first asked."""
    names = dict.fromkeys(backend(name, badge) for name, badge in who.items())
    return {name: Remote(device, seed, shared=False) for name in names}
