"""Where the time of a search on a GPU goes: each kernel, beside torch's product and top k.

    python -m benchmarks.lookup.kernels

A search as it is called, and as a replayed CUDA graph, which has no host in it; then a read with
labels, a write and a whole step of a memory. Nothing is checked here: `benchmarks.lookup` does.
"""

import statistics
import sys
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.lookup.cells import MILLION, Cell, make_inputs
from benchmarks.lookup.clock import CudaClock
from benchmarks.lookup.machine import machine
from benchmarks.lookup.step import prepared
from benchmarks.runner import Benchmark, Run, print_figures
from rarememory.lookup import TritonLookup

BENCHMARK = Benchmark("benchmarks.lookup.kernels", __doc__)
add = BENCHMARK.add
add("--batch", type=int, nargs="+", default=[16, 256, 4096])
add("--slots", type=int, nargs="+", default=[MILLION, 8192])
add("--k", type=int, nargs="+", default=[1, 8, 256, 0], help="neighbours; 0 is the nearest pair")
add("--key-dim", type=int, default=128)
_CALLS = 5


@BENCHMARK
def main(run: Run) -> None:
    """Measure, print, write the result file.

    Raises:
        RuntimeError: torch sees no GPU.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("torch sees no gpu here, and the kernels are those of one")
    options = run.options
    figures: dict[str, float] = {}
    kernels: dict[str, dict[str, float]] = {}
    for slots in options.slots:
        for batch in options.batch:
            for k in options.k:
                cell = Cell(batch, slots, options.key_dim, k)
                found, kernels[cell.name] = search(cell)
                figures |= found
                print(cell.name, *(f"{name} {us:.1f}" for name, us in kernels[cell.name].items()))
    for batch, slots in ((256, MILLION), (16, 8192)):
        figures |= step(Cell(batch, slots, options.key_dim, 0))
    print_figures(figures)
    run.write("lookup_kernels_gpu", figures, machine=machine("cuda"), kernels=kernels)


def search(cell: Cell) -> tuple[dict[str, float], dict[str, float]]:
    """The figures of a search with float16 keys; and the microseconds of each kernel."""
    given, lookup = make_inputs(cell, 0, "cuda"), TritonLookup()
    half_keys, half_queries = given.half_keys, given.queries.half()
    stored = (given.queries, given.keys)

    def ours() -> object:
        if cell.pair:
            of_pair = (*stored, given.values, given.labels)
            return lookup.nearest_pair(*of_pair, half_keys=half_keys)
        return lookup.nearest(*stored, given.occupied, cell.k, half_keys=half_keys)

    def of_torch() -> object:
        return (half_queries @ half_keys.T).topk(max(1, cell.k), sorted=False)

    key = f"lookup.gpu.kernels.{cell.name}"
    return _both(key, ours) | _both(f"{key}.torch_float16", of_torch), _by_kernel(ours)


def step(cell: Cell) -> dict[str, float]:
    """The figures of a whole training step, and of its search alone."""
    whole, alone = prepared(cell, "cuda")
    key = f"lookup.gpu.kernels.step.{cell.name}"
    return _both(key, whole) | _both(f"{key}.search", alone)


def _both(key: str, call: Callable[[], object]) -> dict[str, float]:
    clock = CudaClock()
    modes = {"": "events", "graph_": "graph"}
    return {
        f"{key}.{name}microseconds": 1e6 * statistics.median(clock.measure(call, mode))
        for name, mode in modes.items()
    }


def _by_kernel(call: Callable[[], object]) -> dict[str, float]:
    call()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(_CALLS):
            call()
        torch.cuda.synchronize()
    microseconds = {one.key: one.self_device_time_total / _CALLS for one in seen.key_averages()}
    longest = sorted(microseconds.items(), key=lambda one: -one[1])
    return {name.partition("(")[0][:60]: round(us, 1) for name, us in longest if us > 0}


if __name__ == "__main__":
    sys.exit(main())
