"""What each part of the recipe is worth: one change per row, on validation characters of Omniglot.

    python -m benchmarks.omniglot_ablation --data <folder> --split <folder of lists>

Every row trains on the training characters, as long as the others, with one change to the default
recipe or to the memory under it; rows that only change how the memory is read share the default's
encoder. No test character is used. Without --data Omniglot is downloaded through torchvision.
Trainings write checkpoints into runs/: after Ctrl-C the same command resumes.
"""

import sys
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.omniglot.testing import Read
from benchmarks.omniglot_peers.drawings import Drawings, read
from benchmarks.omniglot_peers.memory import KEY_DIM, memory_accuracy, trained_under_memory
from benchmarks.omniglot_peers.tasks import Task
from benchmarks.results import RUNS, percents
from benchmarks.runner import Benchmark, Run, bar, print_table
from rarememory import AverageOrReplace, AverageOrReplaceRandom, FirstInFirstOut, Memory
from rarememory.data import Jitter
from rarememory.evaluation import Accuracy, embed
from rarememory.training import Recipe, Training

Options = dict[str, Any]
USUAL = (Task(20, 1), Task(20, 5))
MANY_WAY = 50
"""Episodes of all validation classes are so many times fewer: each has ten thousand queries."""

BENCHMARK = Benchmark("benchmarks.omniglot_ablation", __doc__)
BENCHMARK.add_omniglot()
BENCHMARK.add("--steps", type=int, default=400, help="of each training")
BENCHMARK.add("--episodes", type=int, default=1000, help="to test by")
BENCHMARK.add("--seed", type=int, default=0)


@dataclass(frozen=True)
class Change:
    """A row: what it changes in the recipe, in the memory of the training, in that of the test.

    Args:
        recipe: fields of `Recipe`.
        memory: options of the memory in the training and in the test.
        tested: options of the memory in the test only.
        slots: of the tested memory for each class of an episode; None: one for every example.
        averaged: test the averaged weights, not the last ones.
        average: write the mean of a class, not its examples one after the other.
        backbone: one of `BACKBONES`.
    """

    recipe: Options = field(default_factory=dict)
    memory: Options = field(default_factory=dict)
    tested: Options = field(default_factory=dict)
    slots: float | None = None
    averaged: bool = True
    average: bool = True
    backbone: str = "residual"


FULL = 1.5
"""Slots per class that do not hold five shots, so that every miss evicts another example.

With one slot per class the choice would not matter: a batch of rows of all classes then leaves as
many slots untouched as it has misses.
"""
QUEUE = {"update": FirstInFirstOut()}
CHANGES = {
    "default": Change(),
    # The losses
    "margin_alone": Change(recipe={"vote_weight": 0.0}),
    "vote_alone": Change(recipe={"margin_weight": 0.0}),
    "one_way": Change(recipe={"both_ways": False}),
    # The classes of an episode, and one memory of all classes
    "all_random": Change(recipe={"group": 1}),
    "more_sightings": Change(recipe={"n_way": 64, "n_sightings": 4}),
    "kept": Change(recipe={"cleared": False, "group": 1}),
    "kept_few_neighbors": Change(recipe={"cleared": False, "group": 1, "n_neighbors": 16}),
    # The memory
    "temperature_0025": Change(memory={"temperature": 0.025}),
    "projection": Change(memory={"projection": True}),
    "by_shot": Change(average=False),
    "first_in_first_out": Change(tested=QUEUE, average=False),
    # Without noise: that of the default is greater than any age there is in an episode.
    "full": Change(slots=FULL, tested={"update": AverageOrReplace(age_noise=0.0)}, average=False),
    "full_random": Change(slots=FULL, tested={"update": AverageOrReplaceRandom()}, average=False),
    "full_first_in_first_out": Change(slots=FULL, tested=QUEUE, average=False),
    # The optimiser and the drawings
    "last_weights": Change(averaged=False),
    "no_jitter": Change(recipe={"jitter": None}),
    "no_bend": Change(recipe={"jitter": Jitter()}),
    "larger_drawings": Change(backbone="residual56"),
}


@BENCHMARK
def main(run: Run) -> None:
    """Train, test, write the result."""
    options = run.options
    backbones = {change.backbone for change in CHANGES.values()}
    sized = {name: read(options.data, options.split, name) for name in sorted(backbones)}
    drawings = sized["residual"]
    default = Recipe(steps=options.steps, seed=options.seed)
    measured = {
        name: tested(name, change, sized[change.backbone], default, options.episodes)
        for name, change in CHANGES.items()
    }
    tasks = list(measured["default"])
    usual = measured["default"]
    rows = [(name, *(_cell(row, usual, task) for task in tasks)) for name, row in measured.items()]
    print_table(["", *map(str, tasks)], rows, "accuracy in percent, and what the change costs")
    run.published &= drawings.published
    figures = percents(measured, "ablation")
    changes = {name: repr(change) for name, change in CHANGES.items()}
    facts = {"split": drawings.checksum, "episodes": options.episodes, "recipe": repr(default)}
    run.write("omniglot_ablation", figures, **facts, changes=changes)


def tested(
    name: str, change: Change, drawings: Drawings, default: Recipe, n_episodes: int
) -> dict[Task, Accuracy]:
    """The accuracy of a row on validation characters; equal trainings share a checkpoint."""
    recipe = replace(default, **change.recipe)
    options: Options = {"backbone": change.backbone, "options": change.memory}
    title = f"training {name}"
    training = trained_under_memory(drawings.train, recipe, RUNS, name=title, **options)
    encoder = training.averaged.module if change.averaged else training.encoder
    embeddings = embed(encoder, drawings.validation.images)
    row: dict[Task, Accuracy] = {}
    for task in (*USUAL, *(Task(len(embeddings), shot) for shot in (1, 5))):
        if change.slots is None or change.slots < task.shot:
            few = task not in USUAL
            row[task] = memory_accuracy(
                embeddings,
                task,
                n_episodes=max(2, n_episodes // MANY_WAY) if few else n_episodes,
                bar=bar(f"{name}, {task}"),
                memory=evaluation_memory(change, task, training),
                read=Read(average=change.average),
            )
    return row


def evaluation_memory(change: Change, task: Task, training: Training) -> Memory:
    """The memory of the test, with the projection that was learned in the training."""
    size = task.way * task.shot if change.slots is None else round(change.slots * task.way)
    memory = Memory(KEY_DIM, size, **{**change.memory, **change.tested})
    if memory.projection is not None and training.memory.projection is not None:
        memory.projection.load_state_dict(training.memory.projection.state_dict())
    return memory


def _cell(row: dict[Task, Accuracy], default: dict[Task, Accuracy], task: Task) -> str:
    if task not in row:
        return ""
    return f"{row[task]} ({100 * (row[task].mean - default[task].mean):+.2f})"


if __name__ == "__main__":
    sys.exit(main())
