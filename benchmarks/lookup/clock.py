"""Seconds of a call on a CPU and on a GPU, and what other programs take meanwhile."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import psutil
import torch
from torch.utils.benchmark import Timer

Call = Callable[[], object]
Answer = TypeVar("Answer")

LONG = 0.05
"""A call as long as this finds nothing in the caches that it does not put there itself."""
WARM = 0.04
"""Threads of other libraries have stopped spinning by then."""
_BURST = 0.02
_REPEAT_MS = 10


class CpuClock:
    """Wall time of warm calls.

    The call before has emptied the caches, and its threads may spin for some milliseconds: short
    calls are repeated for 40 ms before they are timed, as often as fits into 20 ms.
    """

    modes = ("wall",)

    def measure(self, call: Call, mode: str) -> list[float]:
        """The median seconds of a call."""
        warm = _wall(call)
        if warm > LONG:
            return [warm]
        while warm < WARM:
            warm += _wall(call)
        return [cpu_timer(call).blocked_autorange(min_run_time=_BURST).median]


class CudaClock:
    """CUDA events around each call, or around replays of a graph of it.

    Triton empties the GPU's cache before each of them.
    """

    modes = ("events", "graph")

    def __init__(self) -> None:
        self._graphs: dict[Call, torch.cuda.CUDAGraph] = {}

    def measure(self, call: Call, mode: str) -> list[float]:
        """The seconds of every call, or of every replay."""
        from triton.testing import do_bench

        timed = self._graph(call).replay if mode == "graph" else call
        milliseconds = do_bench(timed, warmup=_REPEAT_MS, rep=_REPEAT_MS, return_mode="all")
        return [one / 1000 for one in milliseconds]

    def _graph(self, call: Call) -> Any:
        if call not in self._graphs:
            # One at a time: each holds the memory of its call.
            self._graphs.clear()
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                _refuse_synchronizing(call)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                call()
            self._graphs[call] = graph
        return self._graphs[call]


def first_call(call: Callable[[], Answer]) -> tuple[Answer, float]:
    """The answer and its seconds, until a GPU has finished."""
    begin = time.perf_counter()
    answer = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return answer, time.perf_counter() - begin


def clock_for(device: str) -> CpuClock | CudaClock:
    """The clock of a device."""
    return CudaClock() if device == "cuda" else CpuClock()


def cpu_timer(call: Call) -> Timer:
    """Torch's timer, with as many threads as there are."""
    return Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())


class ForeignLoad:
    """The share of all processors that other programs took while the block ran, or None.

    Only these processes count as our own.
    """

    def __init__(self, processes: Sequence[int]) -> None:
        self.processes = processes
        self.share: float | None = None

    def __enter__(self) -> "ForeignLoad":
        self._before = self._seconds()
        return self

    def __exit__(self, *error: object) -> None:
        elapsed, idle, own = (
            after - before for before, after in zip(self._before, self._seconds(), strict=True)
        )
        # NaN after one of the processes has ended, and 0 where the system does not report it.
        if elapsed > 0 and own >= 0:
            self.share = max(0.0, 1 - (idle + own) / elapsed)

    def _seconds(self) -> tuple[float, float, float]:
        """Seconds of all processors: elapsed, idle, and spent by our processes."""
        # What follows the eighth is counted in the first, too.
        every = psutil.cpu_times()
        idle = every.idle + getattr(every, "iowait", 0.0)
        try:
            own = [psutil.Process(one).cpu_times() for one in {os.getpid(), *self.processes}]
        except psutil.Error:
            return sum(every[:8]), idle, math.nan
        return sum(every[:8]), idle, sum(one.user + one.system for one in own)


@contextmanager
def changed(thing: Any, name: str, value: object) -> Iterator[None]:
    """The attribute has another value in the block; `patch.object` deletes those of C libraries."""
    before = getattr(thing, name)
    setattr(thing, name, value)
    try:
        yield
    finally:
        setattr(thing, name, before)


def _refuse_synchronizing(call: Call) -> None:
    """A capture that fails half-way may break later ones, so this is checked before."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        raise RuntimeError(f"not to be captured: {str(error).partition(chr(10))[0]}") from None
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _wall(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
