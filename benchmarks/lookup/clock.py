"""Seconds of a call on a CPU and on a GPU, the memory it takes, the kernels it launches."""

import itertools
import os
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

Call = Callable[[], object]
Answer = TypeVar("Answer")

LONG = 0.05
"""A call as long as this finds nothing in the caches that it does not put there itself."""
WARM = 0.04
"""Threads of others have stopped spinning by then."""
_BURST = 0.02
_EVENTS = 10


class CpuClock:
    """Wall time, of calls that are warm.

    Whoever was asked before has emptied the caches, and its threads may go on spinning for some
    milliseconds: a visit to a short call begins with calls that do not count. It is the median of
    as many as fit into 20 ms, from five to fifty.
    """

    modes = ("wall",)

    def visit(self, calls: Sequence[Call], mode: str) -> list[float]:
        """The seconds of one visit."""
        call = calls[0]
        warm = _wall(call)
        if warm > LONG:
            return [warm]
        while warm < WARM:
            warm += _wall(call)
        took: list[float] = []
        while len(took) < 5 or (len(took) < 50 and sum(took) < _BURST):
            took.append(_wall(call))
        return [statistics.median(took)]

    def watched(self, call: Callable[[], Answer]) -> tuple[Answer, float, int | None]:
        """The answer, its seconds, and how far the process grew meanwhile, at most.

        The last is None where the system cannot say.
        """
        before = _grown_from()
        begin = time.perf_counter()
        answer = call()
        took = time.perf_counter() - begin
        return answer, took, None if before is None else max(0, _resident("VmHWM") - before)

    def launches(self, call: Call) -> int | None:
        """Nothing is launched on a CPU."""
        return None


class CudaClock:
    """CUDA events around each call, or around replays of a graph of it, always warm.

    Where there are several calls they are the same search over keys that lie elsewhere, taken in
    turn so that the keys are not all in the cache.
    """

    modes = ("events", "graph")

    def __init__(self) -> None:
        self._graphs: dict[Call, torch.cuda.CUDAGraph] = {}

    def visit(self, calls: Sequence[Call], mode: str) -> list[float]:
        """The seconds of ten calls, or of ten replays."""
        if mode == "graph":
            replay = self._graph(calls).replay
            return [seconds / len(calls) for seconds in _events([replay])]
        return _events(calls)

    def watched(self, call: Callable[[], Answer]) -> tuple[Answer, float, int | None]:
        """The answer, its seconds, and the most that the call has allocated at a time."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        begin = time.perf_counter()
        answer = call()
        torch.cuda.synchronize()
        took = time.perf_counter() - begin
        return answer, took, torch.cuda.max_memory_allocated() - before

    def launches(self, call: Call) -> int | None:
        """Kernels, copies and fills that the call puts on the GPU; None if nobody may look."""
        from torch.profiler import ProfilerActivity, profile

        try:
            with profile(activities=[ProfilerActivity.CUDA]) as seen:
                call()
                torch.cuda.synchronize()
        except RuntimeError:
            return None
        on_gpu = [event for event in seen.events() or [] if event.device_type.name == "CUDA"]
        return len(on_gpu)

    def _graph(self, calls: Sequence[Call]) -> Any:
        if calls[0] not in self._graphs:
            # One at a time: each keeps the memory of its call for itself.
            self._graphs.clear()
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                _refuse_if_it_waits(calls)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for call in calls:
                    call()
            self._graphs[calls[0]] = graph
        return self._graphs[calls[0]]


def _refuse_if_it_waits(calls: Sequence[Call]) -> None:
    """A capture that fails half-way may spoil what comes after it: so this is found out before."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for call in calls:
            call()
    except RuntimeError as error:
        raise RuntimeError(f"not to be captured: {str(error).partition(chr(10))[0]}") from None
    finally:
        torch.cuda.set_sync_debug_mode(before)


def clock_for(device: str) -> CpuClock | CudaClock:
    """The clock of a device."""
    return CudaClock() if device == "cuda" else CpuClock()


class Foreign:
    """The share of all processors that other programs took while the block ran, or None.

    Only these processes count as our own.
    """

    def __init__(self, processes: Sequence[int]) -> None:
        self.processes = processes
        self.share: float | None = None

    def __enter__(self) -> "Foreign":
        self._before = self._look()
        return self

    def __exit__(self, *error: object) -> None:
        before, after = self._before, self._look()
        if before is not None and after is not None and after[0] > before[0]:
            foreign = (after[1] - before[1]) - (after[2] - before[2])
            self.share = max(0.0, foreign / (after[0] - before[0]))

    def _look(self) -> tuple[int, int, int] | None:
        """Ticks of all processors: gone by, spent by anyone, spent by us (proc(5))."""
        try:
            first = Path("/proc/stat").read_text(encoding="utf-8").partition("\n")[0]
            ticks = [int(number) for number in first.split()[1:9]]
            ours = sum(_ticks(process) for process in {os.getpid(), *self.processes})
        except (OSError, ValueError):
            return None
        return sum(ticks), sum(ticks) - ticks[3] - ticks[4], ours


def _ticks(process: int) -> int:
    text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    # The name comes first, in brackets, and may hold anything.
    fields = text.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _wall(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _grown_from() -> int | None:
    """The size of the process, from which the highest is counted anew (proc(5))."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _resident("VmRSS")
    except (OSError, LookupError):
        return None


def _resident(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
    if found is None:
        raise LookupError(name)
    return 1024 * int(found[1])


def _events(calls: Sequence[Call]) -> list[float]:
    in_turn = itertools.cycle(calls)
    for _ in calls:
        next(in_turn)()
    pairs = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        for _ in range(_EVENTS)
    ]
    for begin, end in pairs:
        begin.record()
        next(in_turn)()
        end.record()
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) / 1000 for begin, end in pairs]
