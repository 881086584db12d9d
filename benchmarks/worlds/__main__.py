"""Frozen encoders on public data: photos, sentences, sound and tables, beside tuned rivals.

    python -m benchmarks.worlds --data <folder>

What is not in the folder (data/worlds without --data) is downloaded into it. Features are encoded
once, half an hour on one core, and kept in runs/worlds; the rest takes a quarter of an hour. With
--speed only seconds are measured, on an idle machine. With --few a host of many classes is taught
one or three more, and nothing else: five minutes, without rivals. With --beside a host of 1,000
classes, of none of which an example is at hand, is taught 100 more.
"""

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.runner import Benchmark, Run, bar, print_figures, print_table
from benchmarks.worlds import tasks
from benchmarks.worlds.beside import OTHERS, TAUGHT, beside_task
from benchmarks.worlds.data import SOURCES, World, load
from benchmarks.worlds.draws import Draw, Task
from benchmarks.worlds.encoders import photo_head
from benchmarks.worlds.speed import speed
from rarememory.evaluation import Accuracy

KEPT = Path("runs/worlds")
STRANGERS = ("clinc150", "hwu64", "caltech101")
TABLE_DRAWS = 60
FEW = (1, 3)
"""New classes beside a host of many."""
FEW_DRAWS = 10
FEW_HOSTS = {
    "cifar100": 60,
    "caltech101": 60,
    "gtsrb": 25,
    "scenes15": 12,
    "clinc150": 60,
    "banking77": 40,
    "hwu64": 40,
}
"""Classes of each host."""
NAMES = [*SOURCES, *tasks.TABLES]
SEEDS = 3
MORE_SEEDS = {"cifar100": 10}
"""Of a world where three do not tell the memory from the best rival."""

BENCHMARK = Benchmark("benchmarks.worlds", __doc__)
BENCHMARK.add_data("worlds", "folder with the data sets; downloaded into data/worlds if left out")
text = f"only these of {', '.join(NAMES)}"
BENCHMARK.add("--world", nargs="+", choices=NAMES, metavar="NAME", decisive=False, help=text)
text = "draws of classes and examples; if left out 3, and of CIFAR-100 10"
BENCHMARK.add("--seeds", type=int, help=text)
text = "measure seconds instead of accuracy; on an idle machine"
BENCHMARK.add("--speed", action="store_true", decisive=False, help=text)
text = "teach a host of many classes a few more, and nothing else"
BENCHMARK.add("--few", action="store_true", decisive=False, help=text)
text = "teach ImageNet's classifier the classes of CIFAR-100"
BENCHMARK.add("--beside", action="store_true", decisive=False, help=text)

Rows = Mapping[str, Sequence[tasks.Row]]
"""Of each row the accuracies of every draw."""


@BENCHMARK
def main(run: Run) -> None:
    """Draw, learn, ask, write the result."""
    options = run.options
    if options.speed:
        run.command += " --speed"
        figures = speed(Draw(_world("clinc150", options.data), 0))
        print_figures(figures)
        run.write("worlds_speed", figures)
        return
    if options.world and (options.few or options.beside):
        raise ValueError("--few and --beside have hosts of their own: leave --world out")
    if options.few:
        run.command += " --few"
        run.write("worlds_few", _few(options.data), seeds=FEW_DRAWS)
        return
    if options.beside:
        run.command += " --beside"
        seeds = options.seeds or SEEDS
        figures, best = _figures("beside", _beside(options.data, seeds))
        run.write("worlds_beside", figures, seeds=seeds, best_rivals=best)
        return
    command = run.command.partition(" --world")[0]
    for name in options.world or NAMES:
        seeds = options.seeds or MORE_SEEDS.get(name, SEEDS)
        figures, best = _figures(name, _measured(name, options.data, seeds))
        if name in STRANGERS:
            figures |= _strangers(name, options.data, seeds)
        # A file for each, so that what is measured stays if another cannot be downloaded.
        run.command = f"{command} --world {name}"
        run.write(f"worlds_{name}", figures, seeds=seeds, best_rivals=best)


def _figures(name: str, measured: Mapping[int, Rows]) -> tuple[dict[str, float], dict[str, str]]:
    """Of each number of examples: all figures, which are printed, and the best rival."""
    figures: dict[str, float] = {}
    best = {}
    for shots, rows in measured.items():
        key = f"worlds.{name}.{shots}"
        best[key] = best_rival(rows)
        figures |= figures_of(key, rows)
        _print(rows, f"{name}, {shots} examples a class")
    return figures, best


def _measured(name: str, data: str | None, seeds: int) -> dict[int, Rows]:
    """For each number of examples a class: all rows of all draws."""
    if name in tasks.TABLES:
        return {tasks.TABLE_SHOTS: _joined([tasks.table_rows(name, s) for s in range(TABLE_DRAWS)])}
    return _over_draws(name, (_draw(name, data, seed).task for seed in range(seeds)))


def _over_draws(name: str, draws: Iterable[Callable[[int], Task]]) -> dict[int, Rows]:
    """The same of what gives, for each draw, its task of so many examples a class."""
    found: dict[int, list[dict[str, tasks.Row]]] = defaultdict(list)
    for seed, task in enumerate(draws):
        for shots in tasks.SHOTS:
            progress = bar(f"{name}, draw {seed}, {shots} a class", "rival")
            found[shots].append(tasks.rows_of(task(shots), progress))
    return {shots: _joined(rows) for shots, rows in found.items()}


def _beside(data: str | None, seeds: int) -> dict[int, Rows]:
    """For each number of examples a class: all rows of all draws, beside ImageNet's classes."""
    taught, others = _world(TAUGHT, data), _world(OTHERS, data)
    head = photo_head()
    draws = [partial(beside_task, Draw(taught, seed), others, head, seed) for seed in range(seeds)]
    return _over_draws("beside", draws)


def _few(data: str | None) -> dict[str, float]:
    """Old, new, and their harmonic mean, where a host is taught few classes."""
    figures: dict[str, float] = {}
    for name, n_old in FEW_HOSTS.items():
        for count in FEW:
            found: dict[int, list[tasks.Row]] = defaultdict(list)
            world = _world(name, data)
            for seed in bar(f"{name}, {count} new", "draw")(range(FEW_DRAWS)):
                draw = Draw(world, seed, n_old=n_old, only=n_old + count, published=False)
                for shots in tasks.SHOTS:
                    found[shots].append(tasks.quick_row(draw.task(shots)))
            for shots, rows in found.items():
                for part in rows[0]:
                    place = f"worlds.few{count}.{name}.{shots}"
                    place += "" if part == "all" else f".{part}"
                    figures |= _percent(place, [row[part] for row in rows])
    print_figures(figures)
    return figures


def _joined(draws: Sequence[Mapping[str, tasks.Row]]) -> Rows:
    return {row: [draw[row] for draw in draws] for row in draws[0]}


def _strangers(name: str, data: str | None, seeds: int) -> dict[str, float]:
    """CLINC150's own sentences of no class; elsewhere half of the classes.

    Beside a host they are half of the classes that it does not have.
    """
    world = _world(name, data)
    figures: dict[str, float] = {}
    own, count = "oos_test" in world.split, len(world.names)
    draws = []
    for seed in range(seeds):
        draw = Draw(
            world, seed, only=None if own else count // 2, published=not SOURCES[name].n_old
        )
        n_old = FEW_HOSTS[name]
        hosted = Draw(world, seed, n_old=n_old, only=(n_old + count) // 2, published=False)
        of_none = [world.split == "oos_test"] if own else None
        rows = [np.concatenate(of_none or part.strangers) for part in (draw, hosted)]
        found = tasks.strangers(draw, world.features[rows[0]])
        draws.append(found | tasks.strangers_beside_host(hosted, world.features[rows[1]]))
    for row in draws[0]:
        figures |= _percent(f"worlds.{name}.strangers.far5.{row}", [draw[row] for draw in draws])
    print_figures(figures)
    return figures


def _draw(name: str, data: str | None, seed: int) -> Draw:
    n_old = SOURCES[name].n_old
    return Draw(_world(name, data), seed, n_old=n_old, published=not n_old)


def _world(name: str, data: str | None) -> World:
    return load(name, Path(data or "data/worlds"), KEPT)


def best_rival(rows: Rows) -> str:
    """The rival, tuned or not, with the greatest mean accuracy over the draws."""
    rivals = [name for name in rows if not name.startswith(tasks.MEMORIES)]
    return max(rivals, key=lambda name: np.mean([row["all"] for row in rows[name]]))


def figures_of(key: str, rows: Rows) -> dict[str, float]:
    """Every row in percent; and by how many points of each draw the memory is above the best."""
    figures: dict[str, float] = {}
    for name, draws in rows.items():
        for part in draws[0]:
            place = f"{key}.{name}" if part == "all" else f"{key}.{name}.{part}"
            figures |= _percent(place, [draw[part] for draw in draws])
    rival = [row["all"] for row in rows[best_rival(rows)]]
    figures |= _percent(f"{key}.best_rival", rival)
    for name in tasks.MEMORIES:
        if name in rows:
            over = [row["all"] - other for row, other in zip(rows[name], rival, strict=True)]
            figures |= _percent(f"{key}.{name}_over_best_rival", over)
    return figures


def _percent(key: str, draws: Sequence[float]) -> dict[str, float]:
    """The mean in percent, and the interval where there are several draws."""
    mean, interval = Accuracy.of(torch.tensor(draws, dtype=torch.float64))
    figures = {key: 100 * mean}
    return figures | ({f"{key}.interval": 100 * interval} if math.isfinite(interval) else {})


def _print(rows: Rows, title: str) -> None:
    parts = list(next(iter(rows.values()))[0])
    means = {
        name: [100 * np.mean([row[part] for row in draws]) for part in parts]
        for name, draws in rows.items()
    }
    print_table(["", *parts], [(name, *(f"{x:.1f}" for x in means[name])) for name in means], title)


if __name__ == "__main__":
    sys.exit(main())
