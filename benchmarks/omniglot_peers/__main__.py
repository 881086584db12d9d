"""The memory beside its peers on Omniglot, all in one run, on the same episodes.

    python -m benchmarks.omniglot_peers --data <folder> --split <folder of lists>

Whatever is trained sees as many drawings as the memory's encoder, of the same characters, jittered
alike, through the same encoder. What a method leaves to be chosen is chosen on the validation
characters, by short trainings. Without --data Omniglot is downloaded through torchvision. Trainings
keep checkpoints in runs/: interrupt it with Ctrl-C, and the same command goes on from there. MAML
has a program of its own, benchmarks/omniglot_peers/maml.py.
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.commands import add_omniglot, at_defaults, exit_status, told
from benchmarks.omniglot_peers.drawings import Drawings, read, upright
from benchmarks.omniglot_peers.published import PUBLISHED, beside_published
from benchmarks.omniglot_peers.rows import (
    Method,
    Row,
    Run,
    Said,
    memory_rows,
    peer_rows,
    untrained_rows,
)
from benchmarks.omniglot_peers.tasks import USUAL, Embeddings, Task
from benchmarks.results import RESULTS, write_result
from rarememory.backbones import BACKBONES
from rarememory.evaluation import Accuracy
from rarememory.training import Recipe

DECISIVE = ("steps", "backbone", "episodes", "seed")
RUNS = Path("runs")
MANY_WAY = 10
"""Many-way episodes are a tenth as many: each asks thousands of times."""


def main(arguments: list[str] | None = None) -> int:
    """Train, test, write the result; return the exit status."""
    return exit_status(_run, _options(arguments))


def _run(options: argparse.Namespace) -> None:
    begin = time.perf_counter()
    if options.episodes < 2 * MANY_WAY:
        raise ValueError(
            f"--episodes is {options.episodes}: intervals need at least {2 * MANY_WAY}"
        )
    drawings = read(options.data, options.split, options.backbone)
    recipe = Recipe(steps=options.steps, seed=options.seed)
    run = Run(drawings, recipe, options.backbone, RUNS)
    measured: dict[str, dict[Task, Accuracy]] = {}
    said: Said = {}
    for make in (untrained_rows, memory_rows, peer_rows):
        rows, more = make(run)
        said |= more
        measured |= {name: _tested(name, row, drawings, options) for name, row in rows.items()}
    _show(measured)
    published = options.published and drawings.published
    write_result(
        "omniglot_peers",
        _figures(measured),
        # A quick try is no result to publish: it does not replace one.
        folder=RESULTS if published else RUNS,
        command=" ".join(["python -m benchmarks.omniglot_peers", *told(options, DECISIVE)]),
        seed=options.seed,
        split=drawings.checksum,
        episodes=options.episodes,
        backbone=options.backbone,
        published=PUBLISHED,
        wall_seconds=round(time.perf_counter() - begin),
        rows=said,
    )


def _tested(
    name: str, row: Row, drawings: Drawings, options: argparse.Namespace
) -> dict[Task, Accuracy]:
    """The row's accuracy at every task; of many-way ones each episode has all upright classes."""
    places = upright(drawings.test)
    tested: dict[Task, Accuracy] = {}
    for shot, method in row.items():
        embeddings = method.embed(drawings.test.images)

        def ask(task: Task, some: Embeddings, n_episodes: int, method: Method = method) -> None:
            bar = partial(tqdm, desc=f"{name}, {task}", unit="episode")
            tested[task] = method.answer(
                some, task, n_episodes=n_episodes, seed=options.seed, bar=bar
            )

        for task in USUAL:
            if task.shot == shot:
                ask(task, embeddings, options.episodes)
        ask(Task(len(places), shot), embeddings[places], options.episodes // MANY_WAY)
    return tested


def _figures(measured: dict[str, dict[Task, Accuracy]]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, tested in measured.items():
        for task, accuracy in tested.items():
            key, mean = f"omniglot_peers.{name}.{task}", 100 * accuracy.mean
            figures |= {key: mean, f"{key}.interval": 100 * accuracy.interval}
            figures |= beside_published(key, name, str(task), mean)
    return figures


def _show(measured: dict[str, dict[Task, Accuracy]]) -> None:
    tasks = sorted({task for tested in measured.values() for task in tested})
    table = Table("", *map(str, tasks), title="accuracy in percent")
    for name, tested in measured.items():
        table.add_row(name, *(str(tested.get(task, "")) for task in tasks))
    for name, (_, figures) in PUBLISHED.items():
        table.add_row(f"{name}, published", *(str(figures.get(str(task), "")) for task in tasks))
    Console().print(table)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.omniglot_peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_omniglot(parser)
    add(
        "--steps",
        type=int,
        default=1000,
        help="of the memory's training; peers see as many drawings",
    )
    add("--backbone", choices=BACKBONES, default="residual")
    add("--episodes", type=int, default=1000, help="to test by (default: %(default)s)")
    add("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.published = at_defaults(parser, options, DECISIVE)
    return options


if __name__ == "__main__":
    sys.exit(main())
