"""What each part of the recipe is worth: a change a row, on validation characters of Omniglot.

    python -m benchmarks.omniglot_ablation --data <folder> --split <folder of lists>

Every row trains on the training characters, as long as the others, with one change to the default
recipe or to the memory under it; rows about a memory that is only asked differently share the
default's encoder. None of them sees a test character. Without --data Omniglot is downloaded through
torchvision. Trainings keep checkpoints in runs/: interrupt it with Ctrl-C, and the same command
goes on from there.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.commands import add_omniglot, at_defaults, exit_status, told
from benchmarks.omniglot.testing import Read
from benchmarks.omniglot_peers.drawings import Drawings, read
from benchmarks.omniglot_peers.memory import KEY_DIM, answered_by_memory, trained_under_memory
from benchmarks.omniglot_peers.tasks import Task
from benchmarks.results import RESULTS, write_result
from rarememory import AverageOrReplace, AverageOrReplaceRandom, FirstInFirstOut, Memory
from rarememory.data import Jitter
from rarememory.evaluation import Accuracy, embed
from rarememory.training import Recipe, Training

Options = dict[str, Any]

USUAL = (Task(20, 1), Task(20, 5))
MANY_WAY = 50
"""Episodes of all validation classes are so many times fewer: each asks ten thousand times."""
DECISIVE = ("steps", "episodes", "seed")
RUNS = Path("runs")


@dataclass(frozen=True)
class Change:
    """A row: what it changes in the recipe, in the memory trained under, in the memory asked.

    Args:
        recipe: fields of `Recipe`.
        memory: options of the memory that is trained under and, unless `asked` has others, asked.
        asked: options of the memory that is asked.
        slots: of it for each class of an episode; one for every drawing shown if None.
        averaged: answer by the averaged weights, not by the last.
        average: write the mean of a class, not its drawings one after the other.
        backbone: one of `BACKBONES`.
    """

    recipe: Options = field(default_factory=dict)
    memory: Options = field(default_factory=dict)
    asked: Options = field(default_factory=dict)
    slots: float | None = None
    averaged: bool = True
    average: bool = True
    backbone: str = "residual"


FULL = 1.5
"""Slots a class that do not hold five shots: what is missed costs others their place.

With one a class it would be no matter which goes: a set of rows of all classes then leaves as many
slots untouched as it has misses.
"""
CHANGES = {
    "default": Change(),
    # The losses
    "margin_alone": Change(recipe={"vote_weight": 0.0}),
    "vote_alone": Change(recipe={"margin_weight": 0.0}),
    "one_way": Change(recipe={"both_ways": False}),
    # The classes of an episode, and the memory that knows them all
    "all_random": Change(recipe={"group": 1}),
    "more_sightings": Change(recipe={"n_way": 64, "n_sightings": 4}),
    "kept": Change(recipe={"cleared": False, "group": 1}),
    "kept_few_neighbors": Change(recipe={"cleared": False, "group": 1, "n_neighbors": 16}),
    # The memory
    "temperature_0025": Change(memory={"temperature": 0.025}),
    "projection": Change(memory={"projection": True}),
    "by_shot": Change(average=False),
    "first_in_first_out": Change(asked={"update": FirstInFirstOut()}, average=False),
    # Without noise: that of the default is greater than any age there is in an episode.
    "full": Change(slots=FULL, asked={"update": AverageOrReplace(age_noise=0.0)}, average=False),
    "full_random": Change(slots=FULL, asked={"update": AverageOrReplaceRandom()}, average=False),
    "full_first_in_first_out": Change(
        slots=FULL, asked={"update": FirstInFirstOut()}, average=False
    ),
    # The optimiser and the drawings
    "last_weights": Change(averaged=False),
    "no_jitter": Change(recipe={"jitter": None}),
    "no_bend": Change(recipe={"jitter": Jitter()}),
    "larger_drawings": Change(backbone="residual56"),
}


def main(arguments: list[str] | None = None) -> int:
    """Train, test, write the result; return the exit status."""
    return exit_status(_run, _options(arguments))


def _run(options: argparse.Namespace) -> None:
    begin = time.perf_counter()
    backbones = {change.backbone for change in CHANGES.values()}
    sized = {name: read(options.data, options.split, name) for name in sorted(backbones)}
    drawings = sized["residual"]
    default = Recipe(steps=options.steps, seed=options.seed)
    measured = {
        name: tested(name, change, sized[change.backbone], default, options.episodes)
        for name, change in CHANGES.items()
    }
    _show(measured)
    write_result(
        "omniglot_ablation",
        {key: figure for name, row in measured.items() for key, figure in _figures(name, row)},
        # A quick try is no result to publish: it does not replace one.
        folder=RESULTS if options.published and drawings.published else RUNS,
        command=" ".join(["python -m benchmarks.omniglot_ablation", *told(options, DECISIVE)]),
        seed=options.seed,
        split=drawings.checksum,
        episodes=options.episodes,
        recipe=repr(default),
        changes={name: repr(change) for name, change in CHANGES.items()},
        wall_seconds=round(time.perf_counter() - begin),
    )


def tested(
    name: str, change: Change, drawings: Drawings, default: Recipe, n_episodes: int
) -> dict[Task, Accuracy]:
    """The accuracy of a row on validation characters; what is trained alike is trained once."""
    recipe = replace(default, **change.recipe)
    training = trained_under_memory(
        drawings.train,
        recipe,
        RUNS,
        name=f"training {name}",
        backbone=change.backbone,
        options=change.memory,
    )
    encoder = training.averaged.module if change.averaged else training.encoder
    embeddings = embed(encoder, drawings.validation.images)
    row: dict[Task, Accuracy] = {}
    for task in (*USUAL, *(Task(len(embeddings), shot) for shot in (1, 5))):
        if change.slots is None or change.slots < task.shot:
            few = task not in USUAL
            row[task] = answered_by_memory(
                embeddings,
                task,
                n_episodes=max(2, n_episodes // MANY_WAY) if few else n_episodes,
                bar=partial(tqdm, desc=f"{name}, {task}", unit="episode"),
                memory=asked(change, task, training),
                read=Read(average=change.average),
            )
    return row


def asked(change: Change, task: Task, training: Training) -> Memory:
    """The memory of the test, with the projection that was learned with the one trained under."""
    size = task.way * task.shot if change.slots is None else round(change.slots * task.way)
    memory = Memory(KEY_DIM, size, **{**change.memory, **change.asked})
    if memory.projection is not None and training.memory.projection is not None:
        memory.projection.load_state_dict(training.memory.projection.state_dict())
    return memory


def _figures(name: str, row: dict[Task, Accuracy]) -> Iterator[tuple[str, float]]:
    for task, accuracy in row.items():
        key = f"ablation.{name}.{task}"
        yield key, 100 * accuracy.mean
        yield f"{key}.interval", 100 * accuracy.interval


def _show(measured: dict[str, dict[Task, Accuracy]]) -> None:
    tasks = list(measured["default"])
    table = Table("", *map(str, tasks), title="accuracy in percent, and what the change costs")
    for name, row in measured.items():
        table.add_row(name, *(_cell(row, measured["default"], task) for task in tasks))
    Console().print(table)


def _cell(row: dict[Task, Accuracy], default: dict[Task, Accuracy], task: Task) -> str:
    if task not in row:
        return ""
    return f"{row[task]} ({100 * (row[task].mean - default[task].mean):+.2f})"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.omniglot_ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_omniglot(parser)
    add("--steps", type=int, default=400, help="of each training (default: %(default)s)")
    add("--episodes", type=int, default=1000, help="to test by (default: %(default)s)")
    add("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.published = at_defaults(parser, options, DECISIVE)
    return options


if __name__ == "__main__":
    sys.exit(main())
