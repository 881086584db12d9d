"""The comparison of all candidates in a cell, from loading it to everyone's seconds."""

from collections.abc import Mapping, Sequence

from benchmarks.lookup.bench import Facts
from benchmarks.lookup.candidates import OURS, Description
from benchmarks.lookup.cells import Cell
from benchmarks.lookup.clock import ForeignLoad
from benchmarks.lookup.interleaved import Seconds, fast, interleaved
from benchmarks.lookup.outcome import Outcome
from benchmarks.lookup.remote import Gone, RemoteBench


class Comparison:
    """All cells, on the bench `shared`, where everyone is checked, and one for each backend.

    Args:
        alone: a bench for each backend; None leaves that pass out.
        modes: by pass, how the shared bench times.
        seconds: budget of a cell and pass.
        limit: a candidate whose call takes longer is left out of the cell.
        without: names that do not take part.
    """

    def __init__(
        self,
        shared: RemoteBench,
        *,
        alone: Mapping[str, RemoteBench] | None = None,
        modes: Mapping[str, str],
        seconds: float,
        limit: float,
        without: Sequence[str] = (),
    ) -> None:
        self.shared, self.alone, self.modes = shared, alone, modes
        self.seconds, self.limit, self.without = seconds, limit, without
        self.faults: dict[str, str] | None = None

    def run(self, cell: Cell) -> Outcome:
        """Check everyone, then time those who were right."""
        if self.faults is None:
            self.faults = self.shared.call("trials")
        try:
            return self._run(cell)
        except (Gone, MemoryError, RuntimeError) as error:
            return Outcome(cell, str(error))

    def _run(self, cell: Cell) -> Outcome:
        outcome = Outcome(cell)
        self.shared.call("load", cell)
        outcome.candidates = self.shared.call("candidates", cell.pair)
        for name in outcome.candidates:
            self._check(name, outcome)
        for label, mode in self.modes.items():
            with ForeignLoad(self.shared.processes) as foreign:
                outcome.passes[label] = self._timed(mode, label, outcome)
            outcome.foreign[label] = foreign.share
        if self.alone is not None:
            self._run_alone(outcome)
        return outcome

    def _check(self, name: str, outcome: Outcome) -> None:
        assert self.faults is not None
        if name in self.without:
            outcome.refused[name] = "left out by --without"
            return
        if name in self.faults:
            outcome.refused[name] = f"wrong in a small case: {self.faults[name]}"
            return
        try:
            # To prepare, to check and to measure takes longer than one call.
            timeout = 60 + 10 * self.limit
            facts: Facts = self.shared.call("check", name, self.limit, timeout=timeout)
        except (Gone, RuntimeError) as error:
            facts = {"refused": str(error)}
            if isinstance(error, Gone):
                # The next call starts another process, which has to load the cell again.
                self.shared.call("load", outcome.cell)
                for before in outcome.facts:
                    self.shared.call("check", before, self.limit, checked=False)
        if "refused" in facts:
            outcome.refused[name] = facts.pop("refused")
        outcome.facts[name] = facts

    def _timed(self, mode: str, label: str, outcome: Outcome) -> Seconds:
        def measure(name: str) -> list[float]:
            seconds: list[float] = self.shared.call("measure", name, mode)
            return seconds

        groups = {}
        for name, one in outcome.candidates.items():
            if name not in outcome.refused:
                try:
                    if mode == "graph":
                        # Some can be called, but not captured.
                        measure(name)
                    groups[name] = group(one)
                except RuntimeError as error:
                    outcome.refused[f"{name} ({label})"] = str(error)
        return interleaved(groups, measure, self.seconds)

    def _run_alone(self, outcome: Outcome) -> None:
        """Time ours, and the rivals near the best, each backend in its own process."""
        assert self.alone is not None
        shared = outcome.passes["shared"]
        groups = {name: group(one) for name, one in outcome.candidates.items()}
        close = fast(shared, groups)
        described = {name: outcome.candidates[name] for name in shared}
        benches = {
            name: self.alone[backend(name, one)]
            for name, one in described.items()
            if (one["family"] == OURS or name in close) and backend(name, one) in self.alone
        }
        for bench in dict.fromkeys(benches.values()):
            bench.call("load", outcome.cell, checked=False)
        ready = {
            name: groups[name]
            for name, bench in benches.items()
            if "refused" not in bench.call("check", name, self.limit, checked=False)
        }
        with ForeignLoad([pid for one in benches.values() for pid in one.processes]) as foreign:
            outcome.passes["alone"] = interleaved(
                ready, lambda name: benches[name].call("measure", name, "wall"), self.seconds / 2
            )
        outcome.foreign["alone"] = foreign.share


def backend(name: str, one: Description) -> str:
    """Who shares a process: a rival with its family, one of ours only with its ordered form."""
    return name.removesuffix(".ordered") if one["family"] == OURS else one["family"]


def group(one: Description) -> str:
    """The group, whose fastest is always timed: ours, products, exact or rounding rivals."""
    if one["family"] == OURS:
        return OURS
    if one["product"]:
        return "product"
    return "exact" if one["exact"] else "rounded"


def remote_benches(
    device: str, seed: int, who: Mapping[str, Description]
) -> dict[str, RemoteBench]:
    """A process for every backend, started by its first call."""
    names = dict.fromkeys(backend(name, one) for name, one in who.items())
    return {name: RemoteBench(device, seed, shared=False) for name in names}
