"""Many memories in one operation, beside a loop over as many `Memory` objects.

    python -m benchmarks.rows

Both hold the same and are asked the same, in turns of several calls; a figure is the median of the
ratios of their times, with its quartiles. A step reads with labels, goes back from the loss, and
writes what it recalled. Run it on a quiet machine.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.runner import Benchmark, Run, print_figures
from rarememory import BatchedMemory, Memory

CLASSES = 50
CALLS = 5
"""In a row: a virtual machine takes milliseconds to wake a core that slept while one thread ran."""
BENCHMARK = Benchmark("benchmarks.rows", __doc__)
BENCHMARK.add("--memories", type=int, default=64)
BENCHMARK.add("--slots", type=int, default=512)
BENCHMARK.add("--key-dim", type=int, default=64)
BENCHMARK.add("--rows", type=int, nargs="+", default=[1, 8])
BENCHMARK.add("--k", type=int, default=16)
BENCHMARK.add("--turns", type=int, default=100)
BENCHMARK.add("--seed", type=int, default=0)

Work = Callable[[], object]


@BENCHMARK
def main(run: Run) -> None:
    """Measure, print, write the result file."""
    options = run.options
    torch.manual_seed(options.seed)
    figures: dict[str, float] = {}
    for rows in options.rows:
        for verb, (loop, at_once) in _work(options, rows).items():
            seconds = [(_seconds(loop), _seconds(at_once)) for _ in range(options.turns)]
            key = f"rows.{options.memories}x{options.slots}.{verb}.r{rows}"
            low, median, high = statistics.quantiles((a / b for a, b in seconds[5:]), n=4)
            figures |= {key: median, f"{key}.quartile1": low, f"{key}.quartile3": high}
            figures[f"{key}.ms"] = 1e3 * statistics.median(b for _, b in seconds)
    print_figures(figures)
    run.write("rows", figures)


def _work(options: argparse.Namespace, rows: int) -> dict[str, tuple[Work, Work]]:
    """Each verb by a loop, and at once."""
    loop = [
        Memory(options.key_dim, options.slots, k=options.k, seed=n) for n in range(options.memories)
    ]
    for memory in loop:
        memory.write(torch.randn(options.slots, options.key_dim), _labels(options.slots))
    at_once = BatchedMemory(loop)
    queries = torch.randn(options.memories, rows, options.key_dim)
    labels = _labels(options.memories, rows)

    def step_of_each() -> None:
        asked = queries.clone().requires_grad_()
        recalls = [memory(*given) for memory, *given in zip(loop, asked, labels, strict=True)]
        torch.stack([recall.loss for recall in recalls]).mean().backward()
        for memory, recall, own in zip(loop, recalls, labels, strict=True):
            memory.write(recall, own)

    def step() -> None:
        asked = queries.clone().requires_grad_()
        recall = at_once(asked, labels)
        recall.loss.mean().backward()
        at_once.write(recall, labels)

    return {
        "read": (
            lambda: [memory(own) for memory, own in zip(loop, queries, strict=True)],
            lambda: at_once(queries),
        ),
        "write": (
            lambda: [
                memory.write(*given) for memory, *given in zip(loop, queries, labels, strict=True)
            ],
            lambda: at_once.write(queries, labels),
        ),
        "step": (step_of_each, step),
    }


def _labels(*shape: int) -> Tensor:
    return torch.randint(CLASSES, shape)


def _seconds(work: Work) -> float:
    begin = time.perf_counter()
    for _ in range(CALLS):
        work()
    return (time.perf_counter() - begin) / CALLS


if __name__ == "__main__":
    sys.exit(main())
