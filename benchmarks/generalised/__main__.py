"""Add 659 characters to a resnet18 of 964, from one example or five, by memory and by rivals.

    python -m benchmarks.generalised --data <folder>

Without --data Omniglot is downloaded through torchvision. The host is trained first (a quarter of
an hour on two cores); later a rival fine-tunes all of it (as long again). Both write checkpoints
into runs/: after Ctrl-C the same command resumes.
"""

import argparse
import sys
import time
from copy import deepcopy
from pathlib import Path

import torch
from torch import nn

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
    figures = open_set(host, classes, options.seed)
    print_figures(figures)
    for shots in SHOTS:
        figures |= _of_shots(host, classes, shots, options)
    run.write("generalised", figures, host_epochs=options.epochs, tuning_epochs=options.tuning)


def _of_shots(
    host: nn.Module, classes: Classes, shots: int, options: argparse.Namespace
) -> dict[str, float]:
    """The figures of the memory and all rivals, from so many examples of each new class."""
    rehearsal = _task(host, classes.old, classes.rehearsal, shots, FIT, FIT)
    task = _task(host, classes.old, classes.new, shots, TEST, NEW_TEST)
    rows: dict[str, Accuracies] = {}
    seconds: dict[str, float] = {}
    for name, settings in MEMORIES.items():
        rows[name], seconds[name] = _with_memory(host, classes, shots, task, **settings)
    for name, (rival, grid) in RIVALS.items():
        numbers = chosen(rival, rehearsal, grid)
        print(f"{name}: {numbers}")
        begin = time.process_time()
        scores = rival(task, **numbers)
        seconds[name] = time.process_time() - begin
        rows[name] = measured(scores, task)
    name = "tuned_all"
    rows[name], seconds[name] = _tuned(deepcopy(host), classes, shots, task, options)
    columns = ["", "old", "new", "harmonic mean", "seconds"]
    lines = [(n, row.old, row.new, row.harmonic, f"{seconds[n]:.1f}") for n, row in rows.items()]
    print_table(columns, lines, f"{shots} examples a class")
    return _figures(f"generalised.{shots}shot", rows, seconds)


def _with_memory(
    host: nn.Module, classes: Classes, shots: int, task: Task, **settings: bool
) -> tuple[Accuracies, float]:
    classifier = prepared(host, classes, shots, **settings)
    examples = drawn(classes.new, slice(0, shots))
    seconds = learn_seconds(classifier, examples, settings.get("average", False))
    queries = drawn(classes.old, TEST) + drawn(classes.new, NEW_TEST)
    answers = predicted(classifier, queries, _numbers(classes.old, classes.new))
    return accuracies(answers, task.queries.classes, task.n_old), seconds


def _tuned(
    host: nn.Module, classes: Classes, shots: int, task: Task, options: argparse.Namespace
) -> tuple[Accuracies, float]:
    images = (drawn(classes.old, TRAIN) + drawn(classes.new, slice(0, shots))).images
    checkpoint = Path(f"runs/generalised_{options.epochs}_{options.seed}_{shots}shot.pt")
    numbers = {"epochs": options.tuning, "seed": options.seed}
    host, seconds = tuned_host(host, images, task, checkpoint, **numbers)
    with torch.inference_mode():
        queries = drawn(classes.old, TEST) + drawn(classes.new, NEW_TEST)
        scores = torch.cat([host(inputs) for inputs, _ in queries.batches()])
    return measured(scores, task), seconds


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
