"""Add 659 characters to a resnet18 of 964, from one example or five, by memory and by rivals.

    python -m benchmarks.generalised --data <folder>

Without --data Omniglot is downloaded through torchvision. The host is trained first (an hour of one
core); later a rival fine-tunes all of it (as long again). Both write checkpoints into runs/, and
every method its accuracies: after Ctrl-C the same command resumes.
"""

import argparse
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import nn

from benchmarks import results
from benchmarks.cache import CellCache
from benchmarks.generalised.drawings import (
    FIT,
    NEW_TEST,
    TEST,
    TRAIN,
    Classes,
    Drawings,
    drawn,
    read,
)
from benchmarks.generalised.host import trained_host, tuned_host
from benchmarks.generalised.measured import Accuracies, accuracies
from benchmarks.generalised.memory import MEMORIES, learn_seconds, predicted, prepared
from benchmarks.generalised.openset import open_set
from benchmarks.generalised.rivals import RIVALS, HostOutputs, Task, chosen, measured
from benchmarks.results import percent
from benchmarks.runner import Benchmark, Run, print_figures, print_table
from rarememory.classifier.feature_extractor import FeatureExtractor
from rarememory.data import Characters
from rarememory.evaluation import Accuracy

SHOTS = (1, 5)
BENCHMARK = Benchmark("benchmarks.generalised", __doc__)
BENCHMARK.add_data()
BENCHMARK.add("--epochs", type=int, default=24, help="of the host's training")
BENCHMARK.add("--tuning", type=int, default=8, help="epochs of fine-tuning everything")
BENCHMARK.add("--seed", type=int, default=0)


@BENCHMARK
def main(run: Run) -> None:
    """Train, learn, test, write the result."""
    options = run.options
    torch.manual_seed(options.seed)
    classes = read(options.data, options.seed)
    checkpoint = Path(f"runs/generalised_{options.epochs}_{options.seed}.pt")
    host = trained_host(classes.old, checkpoint, epochs=options.epochs, seed=options.seed)
    tried = options.epochs, options.tuning, options.seed
    cells = CellCache(results.RUNS, "generalised", results.device(), *tried)
    figures = cells.get("openset")
    if figures is None:
        figures = open_set(host, classes, options.seed)
        cells.put("openset", figures)
    print_figures(figures)
    for shots in SHOTS:
        figures |= _of_shots(host, classes, shots, options, cells)
    run.write("generalised", figures, host_epochs=options.epochs, tuning_epochs=options.tuning)


def _of_shots(
    host: nn.Module, classes: Classes, shots: int, options: argparse.Namespace, cells: CellCache
) -> dict[str, float]:
    """The figures of the memory and all rivals, from so many examples of each new class."""
    tasks = Tasks(host, classes, shots)
    methods: dict[str, Callable[[], tuple[Accuracies, float]]] = {
        **{name: partial(_with_memory, tasks, **found) for name, found in MEMORIES.items()},
        **{name: partial(_with_rival, tasks, name) for name in RIVALS},
        "tuned_all": partial(_tuned, tasks, options),
    }
    rows: dict[str, Accuracies] = {}
    seconds: dict[str, float] = {}
    for name, measure in methods.items():
        cell = cells.get(f"{shots}shot_{name}")
        if cell is None:
            cell = measure()
            cells.put(f"{shots}shot_{name}", cell)
        (old, new), seconds[name] = cell
        rows[name] = Accuracies(Accuracy(*old), Accuracy(*new))
    columns = ["", "old", "new", "harmonic mean", "seconds"]
    lines = [(n, row.old, row.new, row.harmonic, f"{seconds[n]:.1f}") for n, row in rows.items()]
    print_table(columns, lines, f"{shots} examples a class")
    return _figures(f"generalised.{shots}shot", rows, seconds)


@dataclass(frozen=True)
class Tasks:
    """What there is to learn and to answer, from so many examples of each new class."""

    host: nn.Module
    classes: Classes
    shots: int

    @cached_property
    def rehearsal(self) -> Task:
        """With classes that are not measured, to choose by."""
        classes = self.classes
        return _task(self.host, classes.old, classes.rehearsal, self.shots, FIT, FIT)

    @cached_property
    def final(self) -> Task:
        """That is measured."""
        classes = self.classes
        return _task(self.host, classes.old, classes.new, self.shots, TEST, NEW_TEST)


def _with_memory(tasks: Tasks, **settings: bool) -> tuple[Accuracies, float]:
    classes, final = tasks.classes, tasks.final
    classifier = prepared(tasks.host, classes, tasks.shots, **settings)
    examples = drawn(classes.new, slice(0, tasks.shots))
    seconds = learn_seconds(classifier, examples, settings.get("average", False))
    queries = drawn(classes.old, TEST) + drawn(classes.new, NEW_TEST)
    answers = predicted(classifier, queries, _numbers(classes.old, classes.new))
    return accuracies(answers, final.queries.classes, final.n_old), seconds


def _with_rival(tasks: Tasks, name: str) -> tuple[Accuracies, float]:
    rival, grid = RIVALS[name]
    numbers = chosen(rival, tasks.rehearsal, grid)
    print(f"{name}: {numbers}")
    begin = time.process_time()
    scores = rival(tasks.final, **numbers)
    return measured(scores, tasks.final), time.process_time() - begin


def _tuned(tasks: Tasks, options: argparse.Namespace) -> tuple[Accuracies, float]:
    classes, shots = tasks.classes, tasks.shots
    images = (drawn(classes.old, TRAIN) + drawn(classes.new, slice(0, shots))).images
    checkpoint = Path(f"runs/generalised_{options.epochs}_{options.seed}_{shots}shot.pt")
    numbers = {"epochs": options.tuning, "seed": options.seed}
    host, seconds = tuned_host(deepcopy(tasks.host), images, tasks.final, checkpoint, **numbers)
    with torch.inference_mode():
        queries = drawn(classes.old, TEST) + drawn(classes.new, NEW_TEST)
        scores = torch.cat([host(inputs) for inputs, _ in queries.batches()])
    return measured(scores, tasks.final), seconds


def _task(
    host: nn.Module, old: Characters, new: Characters, shots: int, test: slice, new_test: slice
) -> Task:
    """The host's outputs for the examples and for the queries."""
    numbers = _numbers(old, new)
    examples = drawn(old, TRAIN) + drawn(new, slice(0, shots))
    queries = drawn(old, test) + drawn(new, new_test)
    head: nn.Linear = host.get_submodule("fc")  # type: ignore[assignment]
    outputs = [_outputs(host, some, numbers) for some in (examples, queries)]
    return Task(outputs[0], outputs[1], head, len(numbers))


@torch.no_grad()
def _outputs(host: nn.Module, drawings: Drawings, numbers: dict[str, int]) -> HostOutputs:
    extractor = FeatureExtractor(host, "fc", has_logits=True)
    features, logits = zip(*(extractor(inputs) for inputs, _ in drawings.batches()), strict=True)
    classes = torch.tensor([numbers[name] for name in drawings.names])
    return HostOutputs(torch.cat(features), torch.cat(logits), classes)


def _numbers(old: Characters, new: Characters) -> dict[str, int]:
    """The number of each class, the old ones first."""
    return {name: number for number, name in enumerate(old.names + new.names)}


def _figures(key: str, rows: dict[str, Accuracies], seconds: dict[str, float]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, row in rows.items():
        parts = {"old": row.old, "new": row.new, "harmonic": row.harmonic}
        figures |= percent(parts, f"{key}.{name}")
    best = max(row.harmonic.mean for name, row in rows.items() if name not in MEMORIES)
    memory = rows["memory"]
    named = ("memory", "tuned_head", "tuned_all")
    return figures | {
        f"{key}.harmonic_mean": 100 * memory.harmonic.mean,
        f"{key}.memory_over_best_rival": 100 * (memory.harmonic.mean - best),
        f"{key}.base_loss": 100 * (rows["host"].old.mean - memory.old.mean),
        f"{key}.tuning_to_learning": seconds["tuned_all"] / seconds["memory"],
        **{f"{key}.seconds.{name}": seconds[name] for name in named},
    }


if __name__ == "__main__":
    sys.exit(main())
