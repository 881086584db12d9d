"""What the machine can do at best, measured in the run itself, and the floor of a cell's seconds.

floor = max(bytes / bandwidth, operations / rate): the keys and the queries are read once and the
slots are written once (after Williams et al. 2009). The rate is that of the best matrix product of
torch or numpy, not the chip's, so a search may be faster than its floor.
"""

import statistics
from collections.abc import Callable
from typing import TypedDict

import numpy as np
import torch

from benchmarks.lookup.cells import Cell
from benchmarks.lookup.clock import CudaClock, changed, cpu_timer, first_call

BYTES = {"float32": 4, "tf32": 4, "float16": 2, "bfloat16": 2}
_LARGEST = 2**30
_SHORT = 0.01


class Ceilings(TypedDict):
    """Bytes a second by the size of what is read; operations a second by the type of number."""

    bandwidth: dict[str, float]
    rate: dict[str, float]


def floor(cell: Cell, reads: str, ceilings: Ceilings) -> float:
    """Seconds below which a search that reads keys of this type cannot fall."""
    width = BYTES[reads]
    # The pair: a value a slot, a label and two slots a query; else k slots a query.
    more = 8 * cell.slots + 24 * cell.batch if cell.pair else 8 * cell.batch * cell.k
    moved = width * cell.slots * cell.key_dim + 4 * cell.batch * cell.key_dim + more
    bandwidth = ceilings["bandwidth"][str(buffer_bytes(cell))]
    return max(moved / bandwidth, cell.products / ceilings["rate"][reads])


def buffer_bytes(cell: Cell) -> int:
    """The size of the buffer whose bandwidth counts: that of the keys, for the caches' sake."""
    return min(_LARGEST, 4 * cell.slots * cell.key_dim)


def measure_bandwidth(size: int, device: str) -> float:
    """Bytes read (on a GPU: read and written, by a copy) a second in a buffer of this size."""
    if device == "cuda":
        # The timing empties the cache, so the memory's own speed counts for every size.
        buffer = torch.ones(_LARGEST, dtype=torch.uint8, device=device)
        copy = torch.empty_like(buffer)
        return 2 * _LARGEST / _seconds(lambda: copy.copy_(buffer), device)
    rows = torch.ones(max(1, size // 512), 128)
    vector, read = torch.ones(128).numpy(), rows.numel() * 4
    ways: list[Callable[[], object]] = [lambda: rows.sum(), lambda: rows.numpy() @ vector]
    return max(read / _seconds(way, device) for way in ways)


def measure_rate(reads: str, device: str, size: int = 2048) -> float:
    """Multiplications and additions a second in a product of square matrices."""
    dtype = getattr(torch, "float32" if reads == "tf32" else reads)
    one = torch.rand(256, 256, device=device).to(dtype)
    # A processor without instructions for the type may take a thousand times as long.
    if device == "cuda" or min(first_call(lambda: one @ one)[1] for _ in range(3)) < _SHORT:
        size = 8192 if device == "cuda" else size
        one = torch.rand(size, size, device=device).to(dtype)
    size = len(one)
    ways: list[Callable[[], object]] = [lambda: one @ one]
    if device == "cpu" and dtype == torch.float32:
        ways.append(lambda: np.matmul(one.numpy(), one.numpy()))
    precision = "tf32" if reads == "tf32" else "ieee"
    with changed(torch.backends.cuda.matmul, "fp32_precision", precision):
        return max(2 * size**3 / _seconds(way, device) for way in ways)


def _seconds(call: Callable[[], object], device: str) -> float:
    """The median on a GPU; on a CPU the shortest, since a ceiling is the best that was reached."""
    if device == "cuda":
        return statistics.median(CudaClock().measure(call, "events"))
    return min(cpu_timer(call).blocked_autorange(min_run_time=0.2).times)
