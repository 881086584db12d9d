"""Copy letters and translate a rare number, by two networks, each with and without a memory.

    python -m benchmarks.sequence

The task of Kaiser et al. 2017, section 4.2. An output counts as correct only if all of it is. Both
networks read windows as long as a number, which the paper's had to learn. Each of the four
trainings writes a checkpoint into runs/: after Ctrl-C the same command resumes.
"""

import argparse
import sys
from dataclasses import asdict, fields
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import percent
from benchmarks.runner import Benchmark, Run
from benchmarks.sequence.measuring import accuracy
from benchmarks.sequence.plot import draw_curves
from benchmarks.sequence.task import Examples, Task, known
from benchmarks.sequence.training import NETWORKS, Recipe, Training, untrained
from benchmarks.sequence.translator import Translator
from rarememory.evaluation import Accuracy

COUNTS = {"examples": 40_000, "held_out": 1000, "test": 4000}
DEFAULTS = {**COUNTS, **asdict(Task()), **asdict(Recipe())}
BENCHMARK = Benchmark("benchmarks.sequence", __doc__)


def _numbers(text: str) -> tuple[int, ...]:
    """16,1 as numbers."""
    return tuple(map(int, text.split(",")))


for name, default in DEFAULTS.items():
    of = _numbers if isinstance(default, tuple) else type(default)
    BENCHMARK.add(f"--{name.replace('_', '-')}", type=of, default=default)


@BENCHMARK
def main(run: Run) -> None:
    """Train, test, write the result."""
    options = run.options
    # The sums depend on the number of threads, and so would every printed digit.
    torch.set_num_threads(1)
    task, recipe = _of(Task, options), _of(Recipe, options)
    parts = task.draw(options.examples, options.held_out, options.test)
    train_on, _, test = parts
    ceiling = Accuracy.of(known(test, train_on).float())
    print(f"{ceiling} % of the test strings have a number that was seen in training")
    figures = percent({"sequence.ceiling": ceiling})
    curves: dict[tuple[str, bool], list[float]] = {}
    details: dict[str, dict[str, Any]] = {}
    for name, with_memory in product(NETWORKS, (True, False)):
        key = f"sequence.{name}.{'with' if with_memory else 'without'}_memory"
        training = _trained(key, untrained(name, with_memory, task, recipe), task, recipe, parts)
        found = accuracy(training.translator, test)
        details[key] = _details(training)
        print(f"{key:36} {found}")
        figures |= percent({key: found})
        curves[name, with_memory] = training.curve
    facts = {"task": asdict(task), "recipe": asdict(recipe)}
    counts = {name: getattr(options, name) for name in COUNTS}
    path = run.write("sequence", figures, **facts, counts=counts, trainings=details)
    print(f"drew {draw_curves(curves, ceiling.mean, path.with_suffix('.png'))}")


def _trained(
    key: str, translator: Translator, task: Task, recipe: Recipe, parts: tuple[Examples, ...]
) -> Training:
    training = Training(translator, parts[0], parts[1], recipe)
    size = "_".join(map(str, (*asdict(task).values(), len(parts[0].numbers))))
    training.train(
        Path(f"runs/{key}_{size}_{recipe.seed}.pt"),
        key,
        every=50,
        evaluate=training.held_out_accuracy,
        evaluate_at=training.epoch_ends,
    )
    return training


def _details(training: Training) -> dict[str, Any]:
    parameters = training.translator.parameters()
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "training_seconds": round(training.seconds),
        "held_out_by_epoch": [round(100 * part, 2) for part in training.curve],
    }


def _of(kind: Any, options: argparse.Namespace) -> Any:
    return kind(**{field.name: getattr(options, field.name) for field in fields(kind)})


if __name__ == "__main__":
    sys.exit(main())
