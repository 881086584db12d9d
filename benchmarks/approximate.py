"""What approximate searches find and what they save: recall beside speed, against the exact search.

    python -m benchmarks.approximate --slots 131072 --k 1 10

On clustered keys (64 around a centre, queries from the same clusters) and on keys and queries in
random directions, where nothing approximate does well. Recall is the share of the true k nearest
that is found. Searches are timed in turns with the exact one, `lookup="auto"`, and so are searches
that follow a write of as many rows, which have an index to bring up to date first; a speedup is the
median of their ratios. Run it on a quiet machine. With every option at its default the result lands
in benchmarks/results, and otherwise in runs/.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.results import RESULTS, write_result
from rarememory import FirstInFirstOut, Lookup, Memory
from rarememory.lookup import FaissIVF, LocalitySensitiveHashing, choose_lookup

PER_CLUSTER = 64
SPREAD = 0.4
"""Of a cluster, beside centres of variance 1: two keys of one have a cosine of about 0.86."""
WARM_UP = 2
COLUMNS = "index", "keys", "slots", "k", "build s"
MEASURED = "recall", "ms", "speedup", "after write ms", "speedup"


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write the result file; return the exit status."""
    options, published = _options(arguments)
    try:
        indices = _indices(options)
    except (ImportError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    torch.manual_seed(options.seed)
    figures: dict[str, float] = {}
    _print_row((*COLUMNS, *MEASURED))
    for slots, data in product(options.slots, DATA):
        points = DATA[data](slots + options.queries, options.key_dim)
        keys, queries = points[: -options.queries], points[-options.queries :]
        for name, make in indices.items():
            figures |= _measured(f"{name}.{data}.m{slots}", make, keys, queries, options)
    told = [
        f"--{name.replace('_', '-')} {_words(part)}"
        for name, part in vars(options).items()
        if part is not None
    ]
    write_result(
        "approximate",
        figures,
        folder=RESULTS if published else Path("runs"),
        command=" ".join(["python -m benchmarks.approximate", *told]),
        seed=options.seed,
    )
    return 0


def clustered(count: int, key_dim: int) -> Tensor:
    """Directions around centres, PER_CLUSTER of them near each, in no order."""
    centres = torch.randn(max(1, count // PER_CLUSTER), key_dim)
    near = centres[torch.randint(len(centres), (count,))]
    return normalize(near + SPREAD * torch.randn(count, key_dim), dim=1)


def unclustered(count: int, key_dim: int) -> Tensor:
    """Random directions."""
    return normalize(torch.randn(count, key_dim), dim=1)


DATA: dict[str, Callable[[int, int], Tensor]] = {
    "clustered": clustered,
    "unclustered": unclustered,
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
    key: str,
    make: Callable[[], Lookup],
    keys: Tensor,
    queries: Tensor,
    options: argparse.Namespace,
) -> dict[str, float]:
    """Recall and speed of one index on one set of keys, for every k."""
    figures: dict[str, float] = {}
    memory, exact = _filled(keys, make()), _filled(keys, choose_lookup("auto"))
    begin = time.perf_counter()
    _search(memory, queries[:1], 1)
    build = time.perf_counter() - begin
    index, data, _ = key.split(".")
    for k in options.k:
        share = _recall(memory, exact, queries, k, options.batch)
        milliseconds, speedup = _speed(memory, exact, k, options)
        later, speedup_later = _speed(memory, exact, k, options, write=True)
        figures |= {
            f"lookup.approximate.{key}_k{k}.recall": share,
            f"lookup.approximate.{key}_k{k}.speedup": speedup,
            f"lookup.approximate.{key}_k{k}.speedup_after_write": speedup_later,
        }
        measured = (share, milliseconds, speedup, later, speedup_later)
        numbers = (f"{number:.2f}" for number in measured)
        _print_row((index, data, len(keys), k, f"{build:.1f}", *numbers))
    return figures


def _recall(memory: Memory, exact: Memory, queries: Tensor, k: int, batch: int) -> float:
    found, truth = (
        torch.cat([_search(each, some, k) for some in queries.split(batch)])
        for each in (memory, exact)
    )
    return recall(found, truth)


def _speed(
    memory: Memory, exact: Memory, k: int, options: argparse.Namespace, write: bool = False
) -> tuple[float, float]:
    """Milliseconds of a search, and how many times as long the exact one takes."""
    mine, theirs = _in_turns(memory, exact, k, options, write)
    ratio = statistics.median(a / b for a, b in zip(theirs, mine, strict=True))
    return 1000 * statistics.median(mine), ratio


def _filled(keys: Tensor, lookup: Lookup) -> Memory:
    """Full, and every row written takes the place of the oldest key."""
    memory = Memory(keys.shape[1], len(keys), lookup=lookup, update=FirstInFirstOut())
    # Straight into the buffers: a write of all rows would look all of them up.
    memory.keys.copy_(keys)
    memory.values.copy_(torch.arange(len(keys)))
    memory.written.copy_(torch.arange(len(keys)))
    memory.clock.fill_(len(keys))
    return memory


@torch.no_grad()
def _search(memory: Memory, queries: Tensor, k: int) -> Tensor:
    return memory.lookup.nearest(queries, memory.keys, memory.state.occupied, k)


def _in_turns(
    memory: Memory, exact: Memory, k: int, options: argparse.Namespace, write: bool
) -> tuple[list[float], list[float]]:
    """Seconds of a search on either side, turn by turn, each with queries of its own."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(-WARM_UP, options.turns):
        slots = torch.randint(len(memory.keys), (options.batch,))
        queries = normalize(
            memory.keys[slots] + 0.01 * torch.randn(memory.keys[slots].shape), dim=1
        )
        for each, took in zip((memory, exact), seconds, strict=True):
            if write:
                each.write(each(queries.flip(0), k=1), slots)
            begin = time.perf_counter()
            _search(each, queries, k)
            if turn >= 0:
                took.append(time.perf_counter() - begin)
    return seconds


def _print_row(cells: tuple[object, ...]) -> None:
    print("  ".join(f"{cell!s:>14}" for cell in cells), flush=True)


def _words(part: object) -> str:
    return " ".join(map(str, part)) if isinstance(part, list) else str(part)


def _options(arguments: list[str] | None) -> tuple[argparse.Namespace, bool]:
    """The options, and whether all are at their defaults, so that the result is to be published."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.approximate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--slots", type=int, nargs="+", default=[8192, 131072], help="(default: %(default)s)")
    add("--k", type=int, nargs="+", default=[1, 10, 256], help="(default: %(default)s)")
    add("--key-dim", type=int, default=128)
    add("--batch", type=int, default=16, help="queries of a search (default: %(default)s)")
    add("--queries", type=int, default=512, help="to measure the recall by (default: %(default)s)")
    add("--turns", type=int, default=30, help="timed searches (default: %(default)s)")
    add("--lists", type=int, help="of FaissIVF (default: by the number of slots)")
    add("--probe", type=int, default=8, help="lists scanned (default: %(default)s)")
    add("--bits", type=int, help="of a hash (default: by the number of slots)")
    add("--tables", type=int, default=8, help="of hashes (default: %(default)s)")
    add("--radius", type=int, default=1, help="bits to differ in (default: %(default)s)")
    add("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    return options, vars(options) == vars(parser.parse_args([]))


if __name__ == "__main__":
    sys.exit(main())
