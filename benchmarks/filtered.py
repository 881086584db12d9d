"""What a read among a tenth of the slots costs, beside a read of all of them.

    python -m benchmarks.filtered

The memory is full, of 100 classes, and the read is among ten of them, or among a mask of as many
slots for each query. The two kinds of reads take turns; a figure is the median of the ratios of
their times. Run it on a quiet machine.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch

from benchmarks.runner import Benchmark, Run, print_figures
from rarememory import FirstInFirstOut, Memory

CLASSES, KEY_DIM = 100, 128
BENCHMARK = Benchmark("benchmarks.filtered", __doc__)
BENCHMARK.add("--slots", type=int, default=131072)
BENCHMARK.add("--batch", type=int, nargs="+", default=[1, 16, 256])
BENCHMARK.add("--k", type=int, nargs="+", default=[1, 10])
BENCHMARK.add("--turns", type=int, default=30)
BENCHMARK.add("--lookup", default="native")
BENCHMARK.add("--seed", type=int, default=0)


@BENCHMARK
def main(run: Run) -> None:
    """Measure, print, write the result file."""
    options = run.options
    torch.manual_seed(options.seed)
    memory = Memory(KEY_DIM, options.slots, lookup=options.lookup, update=FirstInFirstOut())
    memory.write(torch.randn(options.slots, KEY_DIM), torch.randint(CLASSES, (options.slots,)))
    figures: dict[str, float] = {}
    for batch in options.batch:
        queries, labels = torch.randn(batch, KEY_DIM), torch.arange(CLASSES // 10)
        of_each = torch.rand(batch, options.slots) < 0.1
        for k in options.k:

            def whole(k: int = k, queries: torch.Tensor = queries) -> None:
                memory(queries, k=k)

            for name, among in (("", labels), ("each.", of_each)):

                def some(
                    k: int = k, queries: torch.Tensor = queries, among: torch.Tensor = among
                ) -> None:
                    memory(queries, k=k, among=among)

                seconds = [(_seconds(whole), _seconds(some)) for _ in range(options.turns)]
                key = f"filtered.m{options.slots}.{name}b{batch}_k{k}"
                figures[f"{key}.ratio"] = statistics.median(b / a for a, b in seconds)
                figures[f"{key}.whole_ms"] = 1e3 * statistics.median(a for a, _ in seconds)
    print_figures(figures)
    run.write("filtered", figures)


def _seconds(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
