"""One cell at a time: its inputs, the check of every candidate's answer, and the timing of calls.

It runs in a process of its own (`remote.py`), so that a crash ends no other candidate.
"""

from dataclasses import dataclass, field
from typing import TypedDict

import psutil
import torch
from torch import Tensor

from benchmarks.lookup import rivals, rivals_cuda, roofline, truth
from benchmarks.lookup.candidates import Answer, Call, Candidate, Description, Refused, ours
from benchmarks.lookup.cells import Cell, Inputs, make_inputs
from benchmarks.lookup.clock import clock_for, first_call
from benchmarks.lookup.trials import trial

CHECKED_ROWS = 8
_SHORT = 0.2


class Facts(TypedDict, total=False):
    """What is known of a candidate in a cell before it is timed."""

    refused: str
    recall: float


@dataclass
class Loaded:
    """A cell, its inputs, the true scores of some rows, and the calls that may be timed."""

    cell: Cell
    inputs: Inputs
    truth: Tensor | None
    calls: dict[str, Call] = field(default_factory=dict)


class Bench:
    """The candidates in one process; every answer is checked against float64 before it is timed."""

    def __init__(self, device: str, seed: int = 0) -> None:
        self.device, self.seed, self.clock = device, seed, clock_for(device)
        self._loaded: Loaded | None = None
        self._slow: dict[tuple[object, ...], str] = {}

    def candidates(self, pair: bool) -> dict[str, Description]:
        """All of them by name, in the order of the tables."""
        return {name: one.description for name, one in self._all(pair).items()}

    def trials(self) -> dict[str, str]:
        """What our lookups get wrong in small cases, by name; those are not timed."""
        faults: dict[str, str] = {}
        pairs = [(pair, one) for pair in (False, True) for one in ours(self.device, pair)]
        for pair, candidate in pairs:
            try:
                fault = trial(candidate, self.device, pair=pair)
            except Exception as error:
                fault = _sentence(error)
            if fault is not None:
                faults.setdefault(candidate.name, fault)
        return faults

    def bandwidth(self, size: int) -> float:
        """Bytes per second in a buffer of this size; the loaded cell is freed."""
        self._loaded = None
        return roofline.measure_bandwidth(size, self.device)

    def rate(self, reads: str) -> float:
        """Operations per second in a product of matrices of this type; the cell is freed."""
        self._loaded = None
        return roofline.measure_rate(reads, self.device)

    def load(self, cell: Cell, *, checked: bool = True) -> None:
        """Make the inputs of a cell; the keys of the cell before are used again if they are equal.

        Raises:
            MemoryError: it does not fit.
        """
        last, self._loaded = self._loaded, None
        keys = scores = None
        if last is not None and _keys_of(last.cell) == _keys_of(cell):
            keys, scores = last.inputs.keys, last.truth if last.cell.batch == cell.batch else None
        # What is not used again is freed first.
        del last
        self._refuse_if_too_large(cell, new_keys=keys is None)
        inputs = make_inputs(cell, self.seed, self.device, keys)
        if scores is None and checked:
            rows = inputs.queries[:CHECKED_ROWS]
            scores = truth.true_scores(rows, inputs.keys, inputs.occupied)
        self._loaded = Loaded(cell, inputs, scores)

    def check(self, name: str, limit: float, *, checked: bool = True) -> Facts:
        """Prepare a candidate and check its first answer; without "refused" it may be timed.

        A candidate that takes longer than `limit` seconds is refused in every cell with the same
        number of queries and the same keys.
        """
        loaded = self._now()
        candidate = self._all(loaded.cell.pair)[name]
        task = (name, loaded.cell.batch, *_keys_of(loaded.cell))
        if task in self._slow:
            return {"refused": self._slow[task]}
        try:
            call = candidate.prepare(loaded.inputs, loaded.cell)
            answer, seconds = first_call(call)
            facts: Facts = self._judged(candidate, answer) if checked else {}
            del answer
            if self.device == "cuda" or seconds < _SHORT:
                # The first call loads and compiles, which hardly shows in a longer one.
                _, seconds = first_call(call)
            if seconds > limit:
                self._slow[task] = f"one call takes {seconds:.1f} s, more than --limit {limit:g}"
                return {"refused": self._slow[task]}
        except Exception as error:
            # The failure of one candidate must not stop the others.
            if "CUDA error" in str(error):
                raise
            if self.device == "cuda":
                torch.cuda.empty_cache()
            return {"refused": _sentence(error)}
        if "refused" not in facts:
            loaded.calls[name] = call
        return facts

    def measure(self, name: str, mode: str) -> list[float]:
        """Seconds of a candidate's calls in one round."""
        return self.clock.measure(self._now().calls[name], mode)

    def _all(self, pair: bool) -> dict[str, Candidate]:
        kind = rivals_cuda if self.device == "cuda" else rivals
        others = kind.PAIR if pair else kind.NEAREST
        return {one.name: one for one in [*ours(self.device, pair), *others]}

    def _judged(self, candidate: Candidate, answer: Answer) -> Facts:
        loaded = self._now()
        if candidate.product:
            return {}
        assert loaded.truth is not None
        slots, scores = (
            None if part is None else torch.as_tensor(part, device=self.device)[:CHECKED_ROWS]
            for part in answer
        )
        assert slots is not None
        if loaded.cell.pair:
            assert scores is not None
            labels = loaded.inputs.labels[:CHECKED_ROWS]
            fault = truth.pair_fault(loaded.truth, loaded.inputs.values, labels, (slots, scores))
            return {} if fault is None else {"refused": f"a wrong answer: {fault}"}
        k = loaded.cell.k
        facts: Facts = {"recall": truth.recall(loaded.truth, k, slots)}
        if candidate.exact:
            fault = truth.fault(loaded.truth, k, slots, scores, in_order=candidate.in_order)
            if fault is not None:
                facts["refused"] = f"a wrong answer: {fault}"
        return facts

    def _now(self) -> Loaded:
        if self._loaded is None:
            raise RuntimeError("no cell is loaded")
        return self._loaded

    def _refuse_if_too_large(self, cell: Cell, *, new_keys: bool) -> None:
        """Check the memory for keys, for copies of them and, on a CPU, for all the scores.

        On a GPU a candidate without memory for the scores fails alone.
        """
        if self.device == "cuda":
            torch.cuda.empty_cache()
        keys = 3 * 4 * cell.slots * cell.key_dim if new_keys else 0
        scores = 0 if self.device == "cuda" else 3 * 4 * cell.batch * cell.slots
        free = self._free()
        if keys + scores > free:
            needed, there = ((size / 2**30) for size in (keys + scores, free))
            raise MemoryError(f"it needs {needed:.1f} GiB, and {there:.1f} are free")

    def _free(self) -> int:
        if self.device == "cuda":
            return torch.cuda.mem_get_info()[0]
        return int(psutil.virtual_memory().available)


def _keys_of(cell: Cell) -> tuple[int, int, str]:
    return cell.slots, cell.key_dim, cell.data


def _sentence(error: BaseException) -> str:
    first = str(error).strip().partition("\n")[0]
    return first if isinstance(error, Refused | MemoryError) else f"{type(error).__name__}: {first}"
