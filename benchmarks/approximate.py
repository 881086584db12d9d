"""What approximate searches find and what they save, relative to the exact search.

    python -m benchmarks.approximate --slots 131072 --k 1 10

On clustered keys (64 around a centre, queries from the same clusters) and on random directions, the
worst case of every approximate search. Recall is the share of the true k nearest that is found. The
timing alternates with the exact search, `lookup="auto"`, and is repeated with a write before every
search, after which an index has to be updated. A speedup is the median of the ratios. Run it on a
quiet machine.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.runner import Benchmark, Run
from rarememory import FirstInFirstOut, Lookup, Memory
from rarememory.lookup import FaissIVF, LocalitySensitiveHashing, choose_lookup

PER_CLUSTER = 64
SPREAD = 0.4
"""Of a cluster, relative to centres of variance 1: two of its keys have a cosine of about 0.86."""
WARM_UP = 2
COLUMNS = "index", "keys", "slots", "k", "build s"
MEASURED = "recall", "ms", "speedup", "after write ms", "speedup"

BENCHMARK = Benchmark("benchmarks.approximate", __doc__)
add = BENCHMARK.add
add("--slots", type=int, nargs="+", default=[8192, 131072])
add("--k", type=int, nargs="+", default=[1, 10, 256])
add("--key-dim", type=int, default=128)
add("--batch", type=int, default=16, help="queries of a search")
add("--queries", type=int, default=512, help="to measure the recall by")
add("--turns", type=int, default=30, help="timed searches")
add("--lists", type=int, help="of FaissIVF (default: by the number of slots)")
add("--probe", type=int, default=8, help="lists scanned")
add("--bits", type=int, help="of a hash (default: by the number of slots)")
add("--tables", type=int, default=8, help="of hashes")
add("--radius", type=int, default=1, help="bits to differ in")
add("--seed", type=int, default=0)


@BENCHMARK
def main(run: Run) -> None:
    """Measure, print, write the result file."""
    options = run.options
    indices = _indices(options)
    torch.manual_seed(options.seed)
    figures: dict[str, float] = {}
    _print_row((*COLUMNS, *MEASURED))
    for slots, data in product(options.slots, DATA):
        points = DATA[data](slots + options.queries, options.key_dim)
        keys, queries = points[: -options.queries], points[-options.queries :]
        for name, make in indices.items():
            figures |= _measured((name, data), make(), keys, queries, options)
    run.write("approximate", figures)


def clustered(count: int, key_dim: int) -> Tensor:
    """Directions around centres, PER_CLUSTER of them near each, in no order."""
    centres = torch.randn(max(1, count // PER_CLUSTER), key_dim)
    near = centres[torch.randint(len(centres), (count,))]
    return normalize(near + SPREAD * torch.randn(count, key_dim), dim=1)


DATA: dict[str, Callable[[int, int], Tensor]] = {
    "clustered": clustered,
    "unclustered": lambda count, key_dim: normalize(torch.randn(count, key_dim), dim=1),
}


def recall(found: Tensor, truth: Tensor) -> float:
    """Share of the true neighbours among those found, in any order."""
    return (truth.unsqueeze(2) == found.unsqueeze(1)).any(2).double().mean().item()


def _indices(options: argparse.Namespace) -> dict[str, Callable[[], Lookup]]:
    made: dict[str, Callable[[], Lookup]] = {
        "ivf": lambda: FaissIVF(options.lists, options.probe, exact_below=0),
        "lsh": lambda: LocalitySensitiveHashing(
            options.bits, options.tables, options.radius, seed=options.seed, exact_below=0
        ),
    }
    for make in made.values():
        make()
    return made


def _measured(
    names: tuple[str, str],
    index: Lookup,
    keys: Tensor,
    queries: Tensor,
    options: argparse.Namespace,
) -> dict[str, float]:
    """Recall and speed of one index on one set of keys, for every k."""
    figures: dict[str, float] = {}
    memory, exact = _filled(keys, index), _filled(keys, choose_lookup("auto"))
    begin = time.perf_counter()
    _search(memory, queries[:1], 1)
    build = f"{time.perf_counter() - begin:.1f}"
    for k in options.k:
        found, truth = (
            torch.cat([_search(each, some, k) for some in queries.split(options.batch)])
            for each in (memory, exact)
        )
        share = recall(found, truth)
        milliseconds, speedup = _speed(memory, exact, k, options)
        later, speedup_later = _speed(memory, exact, k, options, write=True)
        key = f"lookup.approximate.{names[0]}.{names[1]}.m{len(keys)}_k{k}"
        figures |= {f"{key}.recall": share, f"{key}.speedup": speedup}
        figures[f"{key}.speedup_after_write"] = speedup_later
        numbers = (share, milliseconds, speedup, later, speedup_later)
        _print_row((*names, len(keys), k, build, *(f"{number:.2f}" for number in numbers)))
    return figures


def _speed(
    memory: Memory, exact: Memory, k: int, options: argparse.Namespace, write: bool = False
) -> tuple[float, float]:
    """Milliseconds of a search, and how many times as long the exact one takes.

    Every turn has new queries, near to keys, for both memories.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(-WARM_UP, options.turns):
        slots = torch.randint(len(memory.keys), (options.batch,))
        noise = 0.01 * torch.randn(options.batch, options.key_dim)
        queries = normalize(memory.keys[slots] + noise, dim=1)
        for each, times in zip((memory, exact), seconds, strict=True):
            if write:
                each.write(each(queries.flip(0), k=1), slots)
            begin = time.perf_counter()
            _search(each, queries, k)
            if turn >= 0:
                times.append(time.perf_counter() - begin)
    mine, theirs = seconds
    ratio = statistics.median(a / b for a, b in zip(theirs, mine, strict=True))
    return 1000 * statistics.median(mine), ratio


def _filled(keys: Tensor, lookup: Lookup) -> Memory:
    """Full, and every row written takes the place of the oldest key."""
    memory = Memory(keys.shape[1], len(keys), lookup=lookup, update=FirstInFirstOut())
    # Straight into the buffers: a write would search for all rows.
    memory.keys.copy_(keys)
    memory.values.copy_(torch.arange(len(keys)))
    memory.written.copy_(torch.arange(len(keys)))
    memory.clock.fill_(len(keys))
    return memory


@torch.no_grad()
def _search(memory: Memory, queries: Tensor, k: int) -> Tensor:
    return memory.lookup.nearest(queries, memory.keys, memory.state.occupied, k)


def _print_row(cells: tuple[object, ...]) -> None:
    print("  ".join(f"{cell!s:>14}" for cell in cells), flush=True)


if __name__ == "__main__":
    sys.exit(main())
