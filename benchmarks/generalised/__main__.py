"""Teach a resnet18 of 964 characters 659 more, from one drawing or five, by memory and by rivals.

    python -m benchmarks.generalised --data <folder>

Without --data Omniglot is downloaded through torchvision. The host is trained first (a quarter of
an hour on two cores), then everything is tuned on for a rival (as long again). Both keep
checkpoints in runs/: interrupt it with Ctrl-C, and the same command goes on from there.
"""

import argparse
import sys
import time
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.commands import exit_status
from benchmarks.generalised.drawings import (
    FIT,
    NEW_TEST,
    TEST,
    TRAIN,
    Drawings,
    Kinds,
    drawn,
    read,
)
from benchmarks.generalised.host import trained_host, tuned_host
from benchmarks.generalised.measured import Accuracies, accuracies
from benchmarks.generalised.memory import answers, prepared, taught
from benchmarks.generalised.openset import open_set
from benchmarks.generalised.rivals import RIVALS, Seen, Task, fitted, tested
from benchmarks.results import RESULTS, write_result
from rarememory.classifier.feature_extractor import FeatureExtractor
from rarememory.data import Characters

SHOTS = (1, 5)
EPOCHS, TUNING, SEED = 24, 8, 0
"""A run of these is published."""
MEMORIES = {
    "memory": {},
    "memory.drawings": {"average": False},
    "memory.unwhitened": {"whiten": False},
}
"""The memory, and with a slot for every drawing, and with features as they are."""


def main(arguments: list[str] | None = None) -> int:
    """Train, teach, test, write the result; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generalised", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", help="folder with Omniglot; downloaded if left out")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the host's training")
    parser.add_argument("--tuning", type=int, default=TUNING, help="epochs of tuning everything on")
    parser.add_argument("--seed", type=int, default=SEED)
    return exit_status(_run, parser.parse_args(arguments))


def _run(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    kinds = read(options.data, options.seed)
    checkpoint = Path(f"runs/generalised_{options.epochs}_{options.seed}.pt")
    host = trained_host(kinds.old, checkpoint, epochs=options.epochs, seed=options.seed)
    figures = open_set(host, kinds, options.seed)
    print({name: round(figure, 2) for name, figure in figures.items()})
    for shots in SHOTS:
        figures |= _of_shots(host, kinds, shots, options)
    published = (options.epochs, options.tuning, options.seed) == (EPOCHS, TUNING, SEED)
    write_result(
        "generalised",
        figures,
        # A quick try is no result to publish: it does not replace one.
        folder=RESULTS if published else Path("runs"),
        command="python -m benchmarks.generalised --data <folder>",
        seed=options.seed,
        host_epochs=options.epochs,
        tuning_epochs=options.tuning,
    )


def _of_shots(
    host: nn.Module, kinds: Kinds, shots: int, options: argparse.Namespace
) -> dict[str, float]:
    """The memory and all rivals, taught from so many drawings."""
    rehearsal = _task(host, kinds.old, kinds.rehearsed, shots, FIT, FIT)
    task = _task(host, kinds.old, kinds.new, shots, TEST, NEW_TEST)
    rows: dict[str, Accuracies] = {}
    seconds: dict[str, float] = {}
    for name, ways in MEMORIES.items():
        rows[name], seconds[name] = _remembered(host, kinds, shots, task, **ways)
    for name, (rival, grid) in RIVALS.items():
        numbers = fitted(rival, rehearsal, grid)
        print(f"{name}: {numbers}")
        begin = time.perf_counter()
        scores = rival(task, **numbers)
        seconds[name] = time.perf_counter() - begin
        rows[name] = tested(scores, task)
    name = "tuned_all"
    rows[name], seconds[name] = _tuned(deepcopy(host), kinds, shots, task, options)
    _show(shots, rows, seconds)
    return _figures(f"generalised.{shots}shot", rows, seconds)


def _remembered(
    host: nn.Module, kinds: Kinds, shots: int, task: Task, **ways: bool
) -> tuple[Accuracies, float]:
    classifier, _ = prepared(host, kinds, shots, **ways)
    seconds = taught(classifier, drawn(kinds.new, slice(0, shots)), ways.get("average", True))
    given = answers(classifier, _queries(kinds), _numbers(kinds.old, kinds.new))
    return accuracies(given, task.queries.classes, task.n_old), seconds


def _tuned(
    host: nn.Module, kinds: Kinds, shots: int, task: Task, options: argparse.Namespace
) -> tuple[Accuracies, float]:
    images = (drawn(kinds.old, TRAIN) + drawn(kinds.new, slice(0, shots))).images
    checkpoint = Path(f"runs/generalised_{options.epochs}_{options.seed}_{shots}shot.pt")
    host, seconds = tuned_host(
        host, images, task, checkpoint, epochs=options.tuning, seed=options.seed
    )
    with torch.inference_mode():
        scores = torch.cat([host(inputs) for inputs, _ in _queries(kinds).batches()])
    return tested(scores, task), seconds


def _task(
    host: nn.Module, old: Characters, new: Characters, shots: int, asked: slice, asked_new: slice
) -> Task:
    """What the host makes of what is taught and of what is asked."""
    numbers = _numbers(old, new)
    taught_drawings = drawn(old, TRAIN) + drawn(new, slice(0, shots))
    queries = drawn(old, asked) + drawn(new, asked_new)
    head: nn.Linear = host.get_submodule("fc")  # type: ignore[assignment]
    learnt, asked_about = (_seen(host, some, numbers) for some in (taught_drawings, queries))
    return Task(learnt, asked_about, head, len(numbers))


@torch.no_grad()
def _seen(host: nn.Module, drawings: Drawings, numbers: dict[str, int]) -> Seen:
    extractor = FeatureExtractor(host, "fc", has_logits=True)
    features, logits = zip(*(extractor(inputs) for inputs, _ in drawings.batches()), strict=True)
    classes = torch.tensor([numbers[name] for name in drawings.names])
    return Seen(torch.cat(features), torch.cat(logits), classes)


def _queries(kinds: Kinds) -> Drawings:
    return drawn(kinds.old, TEST) + drawn(kinds.new, NEW_TEST)


def _numbers(old: Characters, new: Characters) -> dict[str, int]:
    """The number of each class, the old ones first; what is answered beside those is none."""
    return {name: number for number, name in enumerate(old.names + new.names)}


def _figures(key: str, rows: dict[str, Accuracies], seconds: dict[str, float]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, row in rows.items():
        parts = {"old": row.old, "new": row.new, "harmonic": row.harmonic}
        for part, accuracy in parts.items():
            figures[f"{key}.{name}.{part}"] = 100 * accuracy.mean
            figures[f"{key}.{name}.{part}.interval"] = 100 * accuracy.interval
    best = max(row.harmonic.mean for name, row in rows.items() if name not in MEMORIES)
    ours = rows["memory"]
    return figures | {
        f"{key}.harmonic_mean": 100 * ours.harmonic.mean,
        f"{key}.memory_over_best_rival": 100 * (ours.harmonic.mean - best),
        f"{key}.base_loss": 100 * (rows["host"].old.mean - ours.old.mean),
        f"{key}.seconds.memory": seconds["memory"],
        f"{key}.seconds.tuned_head": seconds["tuned_head"],
        f"{key}.seconds.tuned_all": seconds["tuned_all"],
        f"{key}.tuning_to_learning": seconds["tuned_all"] / seconds["memory"],
    }


def _show(shots: int, rows: dict[str, Accuracies], seconds: dict[str, float]) -> None:
    table = Table("", "old", "new", "harmonic mean", "seconds", title=f"{shots} drawings a class")
    for name, row in rows.items():
        cells: Iterable[object] = (row.old, row.new, row.harmonic, f"{seconds[name]:.1f}")
        table.add_row(name, *map(str, cells))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
