"""What a sharded memory costs beside one memory, and what its processes tell each other.

    python -m benchmarks.sharded

Processes of one thread, bound to a core as launchers do it, on gloo, share the queries evenly. Two
of them read what one reads alone. Four read a memory that is four times as large, and beside that,
all at the same time, a memory of a quarter of it each, for all queries, and then make the exchanges
of a read with nothing to find between them. The works take turns; a turn takes as long as its
slowest process, and a figure is the median of the ratios of the turns.

On a virtual machine a core that sleeps takes milliseconds to wake up. So while it measures, a
process of the lowest class, which gives way to any other, keeps each core awake; with
`--asleep` there are none. Run it on a quiet machine.
"""

import multiprocessing
import os
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

from benchmarks.runner import Benchmark, Run, print_figures
from benchmarks.sharded_paper import on_paper
from rarememory import FirstInFirstOut, Memory
from rarememory.distributed import shard
from rarememory.distributed.layout import Layout
from rarememory.distributed.ranks import Ranks

KEY_DIM = 128
BENCHMARK = Benchmark("benchmarks.sharded", __doc__)
BENCHMARK.add("--slots", type=int, default=200_000, help="of one process")
BENCHMARK.add("--batch", type=int, default=64, help="queries of all processes together")
BENCHMARK.add("--k", type=int, default=10)
BENCHMARK.add("--turns", type=int, default=40)
BENCHMARK.add("--worlds", type=int, nargs="+", default=[1, 2, 4])
BENCHMARK.add("--asleep", action="store_true", help="let idle cores sleep")
BENCHMARK.add("--seed", type=int, default=0)


@BENCHMARK
def main(run: Run) -> None:
    """Measure, print, write the result file."""
    figures: dict[str, float] = {}
    for world in run.options.worlds:
        with TemporaryDirectory() as folder, ExitStack() as stack:
            if not run.options.asleep:
                stack.enter_context(_awake())
            spawn(_work, args=(world, run.options, folder), nprocs=world)
            figures |= torch.load(Path(folder) / "figures.pt")
    figures |= on_paper()
    print_figures(figures)
    run.write("sharded", figures)


@contextmanager
def _awake() -> Iterator[None]:
    """Let no core sleep inside the block, where processes can be bound to one."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    context = multiprocessing.get_context("fork")
    waiting = [context.Process(target=_wait, args=(core,), daemon=True) for core in cores]
    for process in waiting:
        process.start()
    try:
        yield
    finally:
        for process in waiting:
            process.kill()
            process.join()


def _wait(core: int) -> None:
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    while True:
        pass


def _work(rank: int, world: int, options: Namespace, folder: str) -> None:
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world
    )
    torch.manual_seed(options.seed)
    figures = (_many if world > 2 else _few)(rank, world, options)
    if rank == 0:
        torch.save(figures, Path(folder) / "figures.pt")
    distributed.barrier()
    os._exit(0)


def _few(rank: int, world: int, options: Namespace) -> dict[str, float]:
    """One or two processes beside one memory of as many slots."""
    queries, own = _queries(rank, world, options)
    whole, many = _filled(options.slots, options), _filled(options.slots, options, sharded=True)
    turns = _turns(
        {
            "one": lambda: whole(queries) if rank == 0 else None,
            "many": lambda: many(queries[own]),
        },
        options.turns,
    )
    key, one, sharded = f"sharded.ranks{world}", turns["one"], turns["many"]
    figures = {f"{key}.read.ms": 1e3 * statistics.median(sharded)}
    if world == 1:
        return {**figures, f"{key}.ratio": _ratio(sharded, one)}
    return {**figures, f"{key}.read.speed_up": _ratio(one, sharded)}


def _many(rank: int, world: int, options: Namespace) -> dict[str, float]:
    """Many processes beside what each does, and what they say to each other; and the bytes."""
    queries, own = _queries(rank, world, options)
    labels = torch.zeros(len(queries[own])).long()
    many, part = (
        _filled(world * options.slots, options, sharded=True),
        _filled(options.slots, options),
    )
    turns = _turns(
        {
            "many": lambda: many(queries[own]),
            "part": lambda: part(queries),
            "exchanges": lambda: _exchanges(len(queries[own]), options),
        },
        options.turns,
    )
    alone = [sum(pair) for pair in zip(turns["part"], turns["exchanges"], strict=True)]
    key = f"sharded.ranks{world}"
    tenth = _filled(world * options.slots // 10, options, sharded=True)
    recall = many(queries[own], k=1)
    works: dict[str, Callable[[], object]] = {
        "": lambda: many(queries[own]),
        ".tenth_of_slots": lambda: tenth(queries[own]),
        ".loss": lambda: many(queries[own].requires_grad_(), labels),
        ".write": lambda: many.write(recall, labels),
    }
    return {
        f"{key}.read.ms": 1e3 * statistics.median(turns["many"]),
        f"{key}.read.ratio": _ratio(turns["many"], alone),
        f"{key}.exchanges.ms": 1e3 * statistics.median(turns["exchanges"]),
        **{
            f"sharded.bytes_per_query{name}": _bytes(work) / options.batch
            for name, work in works.items()
        },
    }


def _queries(rank: int, world: int, options: Namespace) -> tuple[Tensor, slice]:
    """Those of all processes, and which are those of this one."""
    own = slice(rank * options.batch // world, (rank + 1) * options.batch // world)
    return torch.randn(options.batch, KEY_DIM), own


def _filled(slots: int, options: Namespace, *, sharded: bool = False) -> Memory:
    """A full memory of random directions."""
    settings: dict[str, Any] = {"k": options.k, "lookup": "native", "update": FirstInFirstOut()}
    memory = Memory(KEY_DIM, slots, device="meta" if sharded else None, **settings)
    if sharded:
        shard(memory)
    memory.keys.copy_(nn.functional.normalize(torch.randn_like(memory.keys), dim=1))
    memory.values.random_(100)
    return memory


def _exchanges(rows: int, options: Namespace) -> None:
    """What the processes of a read tell each other, of the same sizes, with nothing to find."""
    ranks = Ranks(torch.device("cpu"))
    counts, queries = [rows] * ranks.size, torch.zeros(rows, KEY_DIM)
    numbers = torch.zeros(rows).long()
    asked = Layout.of(queries, numbers, numbers > 0, numbers)
    found = torch.zeros(rows * ranks.size, options.k)
    candidates = Layout.of(found.long(), found, found.long())
    ranks.gather(lambda: numbers.new_zeros(5 + rows * asked.words), 5 + rows * asked.words)
    ranks.exchange(
        lambda: numbers.new_zeros(len(found), candidates.words), counts, counts, candidates.words
    )


def _turns(works: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Seconds of each work at each turn, in the slowest process; the first turns do not count."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(turns + 5):
        for name, work in works.items():
            distributed.barrier()
            begin = time.perf_counter()
            work()
            seconds = torch.tensor(time.perf_counter() - begin, dtype=torch.float64)
            distributed.all_reduce(seconds, distributed.ReduceOp.MAX)
            found[name].append(seconds.item())
    return {name: seconds[5:] for name, seconds in found.items()}


def _ratio(one: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def _bytes(work: Callable[[], object]) -> int:
    """What all processes receive of the others in this work, as far as the sizes say."""
    world, received = distributed.get_world_size(), 0

    def counting(name: str) -> Callable[..., None]:
        collective = getattr(distributed, name)

        def counted(output: Tensor, *args: object, **options: object) -> None:
            nonlocal received
            # Each process receives all but its own part; in a ring, a sum goes round twice.
            times = 2 if name == "all_reduce" else 1
            received += times * (world - 1) * output.numel() * output.element_size() // world
            collective(output, *args, **options)

        return counted

    names = ("all_gather_into_tensor", "all_to_all_single", "all_reduce")
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(patch.object(distributed, name, counting(name)))
        work()
    total = torch.tensor(received)
    distributed.all_reduce(total)
    return int(total)


if __name__ == "__main__":
    sys.exit(main())
