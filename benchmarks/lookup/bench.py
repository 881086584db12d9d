"""The table the contestants sit at: one cell laid out at a time, answers checked, calls timed.

It lives in a process of its own (`remote.py`), so that who crashes takes nobody along.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import torch
from torch import Tensor

from benchmarks.lookup import rivals, rivals_cuda, roofline, truth
from benchmarks.lookup.cells import Cell, Inputs, inputs
from benchmarks.lookup.clock import Call, clock_for
from benchmarks.lookup.contestants import OURS, Answer, Contestant, Refused, ours
from benchmarks.lookup.trials import trial

CHECKED_ROWS = 8
_SHORT = 0.2
_L2_CACHE = 60 * 2**20


class Badge(TypedDict):
    """What is known of a contestant in any cell; the words are those of `Contestant`."""

    family: str
    returns: str
    reads: str
    exact: bool
    product: bool


class Facts(TypedDict, total=False):
    """What is known of a contestant in a cell before it is timed."""

    refused: str
    recall: float
    extra_bytes: int | None
    launches: int | None


@dataclass
class Laid:
    """A cell laid out: its tensors (several times if the keys must not stay in the cache)."""

    cell: Cell
    buffers: list[Inputs]
    truth: Tensor | None
    calls: dict[str, Sequence[Call]] = field(default_factory=dict)


class Bench:
    """Contestants of one process; every answer is checked against float64 before it is timed."""

    def __init__(self, device: str, seed: int = 0) -> None:
        self.device, self.seed, self.clock = device, seed, clock_for(device)
        self._laid: Laid | None = None
        self._slow: dict[tuple[object, ...], str] = {}

    def contestants(self, pair: bool) -> dict[str, Badge]:
        """All of them by name, in the order of the tables."""
        return {
            name: Badge(
                family=one.family,
                returns=one.returns,
                reads=one.reads,
                exact=one.exact,
                product=one.product,
            )
            for name, one in self._all(pair).items()
        }

    def trials(self) -> dict[str, str]:
        """What our lookups get wrong in small cases, by name; those are not timed."""
        faults: dict[str, str] = {}
        for pair in (False, True):
            for contestant in ours(self.device, pair):
                try:
                    fault = trial(contestant, self.device, pair=pair)
                except Exception as error:
                    fault = _sentence(error)
                if fault is not None:
                    faults.setdefault(contestant.name, fault)
        return faults

    def bandwidth(self, size: int) -> float:
        """Bytes a second in a buffer of this size; the cell makes room for it."""
        self._laid = None
        return roofline.measure_bandwidth(size, self.device)

    def rate(self, reads: str) -> float:
        """Operations a second in a product of matrices of this type; the cell makes room."""
        self._laid = None
        return roofline.measure_rate(reads, self.device)

    def lay(self, cell: Cell, *, checked: bool = True) -> None:
        """Lay a cell out; keys of the cell before are used again if they are the same.

        Raises:
            MemoryError: it does not fit.
        """
        last, self._laid = self._laid, None
        copies: list[Tensor] = []
        if last is not None and _keys_of(last.cell) == _keys_of(cell):
            copies = [given.keys for given in last.buffers]
        true = last.truth if last is not None and copies and last.cell.batch == cell.batch else None
        # What is not used again makes room.
        del last
        self._refuse_if_too_large(cell, laid=bool(copies))
        first = inputs(cell, self.seed, self.device, copies[0] if copies else None)
        buffers = [first, *map(first.with_keys, copies[1:])]
        while len(buffers) < self._rotated(first.keys):
            buffers.append(first.with_keys(first.keys.clone()))
        if true is None and checked:
            true = truth.true_scores(first.queries[:CHECKED_ROWS], first.keys, first.occupied)
        self._laid = Laid(cell, buffers, true)

    def check(self, name: str, limit: float, *, checked: bool = True) -> Facts:
        """Prepare a contestant and look at its first answer; say whether it may be timed.

        Whoever takes longer than `limit` seconds is not asked again with as many queries and keys.
        """
        laid = self._now()
        contestant = self._all(laid.cell.pair)[name]
        task = (name, laid.cell.batch, *_keys_of(laid.cell))
        if task in self._slow:
            return {"refused": self._slow[task]}
        try:
            calls = [contestant.prepare(given, laid.cell) for given in laid.buffers]
            answer, took, extra_bytes = self.clock.watched(calls[0])
            facts: Facts = self._judged(contestant, answer) if checked else {}
            del answer
            if self.device == "cuda" or took < _SHORT:
                # The first call loads and compiles, which a longer one hides.
                _, took, extra_bytes = self.clock.watched(calls[0])
            if took > limit:
                self._slow[task] = f"one call takes {took:.1f} s, more than --limit {limit:g}"
                return {"refused": self._slow[task]}
            if checked and "refused" not in facts:
                facts["extra_bytes"] = extra_bytes
                if contestant.family == OURS:
                    facts["launches"] = self.clock.launches(calls[0])
        except Exception as error:
            # Whatever goes wrong with one is no reason to stop the others.
            if "CUDA error" in str(error):
                raise
            if self.device == "cuda":
                torch.cuda.empty_cache()
            return {"refused": _sentence(error)}
        if "refused" not in facts:
            laid.calls[name] = calls
        return facts

    def visit(self, name: str, mode: str) -> list[float]:
        """Seconds of the calls of one visit."""
        return self.clock.visit(self._now().calls[name], mode)

    def _all(self, pair: bool) -> dict[str, Contestant]:
        others = (rivals_cuda if self.device == "cuda" else rivals).rivals(pair)
        return {one.name: one for one in [*ours(self.device, pair), *others]}

    def _judged(self, contestant: Contestant, answer: Answer) -> Facts:
        laid, given = self._now(), self._now().buffers[0]
        if contestant.product:
            return {}
        assert laid.truth is not None
        slots, scores = (
            None if part is None else torch.as_tensor(part, device=self.device)[:CHECKED_ROWS]
            for part in answer
        )
        assert slots is not None
        if laid.cell.pair:
            assert scores is not None
            rows = given.labels[:CHECKED_ROWS]
            fault = truth.pair_fault(laid.truth, given.values, rows, (slots, scores))
            return {} if fault is None else {"refused": f"a wrong answer: {fault}"}
        known: Facts = {"recall": truth.recall(laid.truth, laid.cell.k, slots)}
        if contestant.exact:
            fault = truth.fault(
                laid.truth, laid.cell.k, slots, scores, in_order=contestant.in_order
            )
            if fault is not None:
                known["refused"] = f"a wrong answer: {fault}"
        return known

    def _now(self) -> Laid:
        if self._laid is None:
            raise RuntimeError("no cell is laid out")
        return self._laid

    def _rotated(self, keys: Tensor) -> int:
        """Copies of the keys that are thrice the GPU's cache, but 64 at most; one on a CPU."""
        if self.device != "cuda" or keys.nbytes >= 3 * _L2_CACHE:
            return 1
        # A half-precision copy is what is read of some.
        return min(64, max(3, math.ceil(3 * _L2_CACHE / (keys.nbytes / 2))))

    def _refuse_if_too_large(self, cell: Cell, *, laid: bool) -> None:
        """Room for the keys, for the copies that some make and, on a CPU, for all the scores.

        On a GPU who has no room for the scores says so, and is left out alone.
        """
        if self.device == "cuda":
            torch.cuda.empty_cache()
        keys = 0 if laid else 3 * 4 * cell.slots * cell.key_dim
        scores = 0 if self.device == "cuda" else 3 * 4 * cell.batch * cell.slots
        free = self._free()
        if free is not None and keys + scores > free:
            needed, there = ((size / 2**30) for size in (keys + scores, free))
            raise MemoryError(f"it needs {needed:.1f} GiB, and {there:.1f} are free")

    def _free(self) -> int | None:
        if self.device == "cuda":
            return torch.cuda.mem_get_info()[0]
        try:
            with open("/proc/meminfo", encoding="utf-8") as lines:
                sizes = dict(line.split(":") for line in lines)
            return 1024 * int(sizes["MemAvailable"].split()[0])
        except (OSError, KeyError):
            return None


def _keys_of(cell: Cell) -> tuple[int, int, str]:
    return cell.slots, cell.key_dim, cell.data


def _sentence(error: BaseException) -> str:
    first = str(error).strip().partition("\n")[0]
    return first if isinstance(error, Refused | MemoryError) else f"{type(error).__name__}: {first}"
