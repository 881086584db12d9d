"""Copy letters and translate a rare number, by two networks, each with and without a memory.

    python -m benchmarks.sequence

The task of Kaiser et al. 2017, section 4.2. An output counts as right only if all of it is. Both
networks read windows as long as a number, which the paper's had to find out. Each of the four
trainings keeps a checkpoint in runs/: interrupt it with Ctrl-C, and the same command goes
on from there. The result lands in benchmarks/results, or in runs/ if any number that decides it
differs from its default.
"""

import argparse
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.commands import exit_status
from benchmarks.results import RESULTS, percent, write_result
from benchmarks.sequence.measuring import accuracy, slots_by_kind
from benchmarks.sequence.plot import draw_curves
from benchmarks.sequence.task import Examples, Task, known
from benchmarks.sequence.training import NETWORKS, Recipe, Training, built, train
from rarememory.evaluation import Accuracy

COUNTS = {"examples": 40_000, "held_out": 1000, "test": 4000}


def main(arguments: list[str] | None = None) -> int:
    """Train, test, write the result; return the exit status."""
    return exit_status(_run, _options(arguments))


def _run(options: argparse.Namespace) -> None:
    # Sums depend on how many threads share them, and so would every printed digit.
    torch.set_num_threads(1)
    task, recipe = _of(Task, options), _of(Recipe, options)
    parts = task.draw(options.examples, options.held_out, options.test)
    train_on, _, test = parts
    ceiling = Accuracy.of(known(test, train_on).float())
    print(f"{ceiling} % of the test strings have a number that was seen in training")
    figures = percent({"sequence.ceiling": ceiling})
    trainings: dict[tuple[str, bool], Training] = {}
    details: dict[str, dict[str, Any]] = {}
    for name in NETWORKS:
        for remembers in (True, False):
            key = f"sequence.{name}.{'with' if remembers else 'without'}_memory"
            training = _trained(key, name, remembers, task, recipe, parts)
            details[key] = _details(training)
            answered = accuracy(training.translator, test)
            details[key]["slots"] = slots_by_kind(training.translator)
            print(f"{key:36} {answered}")
            figures |= percent({key: answered})
            trainings[name, remembers] = training
    folder = RESULTS if options.published else Path("runs")
    write_result(
        "sequence",
        figures,
        # A quick try is no result to publish: it does not replace one.
        folder=folder,
        command=" ".join(["python -m benchmarks.sequence", *options.told]),
        seed=options.seed,
        task=asdict(task),
        recipe=asdict(recipe),
        counts={name: getattr(options, name) for name in COUNTS},
        trainings=details,
    )
    curves = {kind: training.curve for kind, training in trainings.items()}
    print(f"drew {draw_curves(curves, ceiling.mean, folder / 'sequence.png')}")


def _trained(
    key: str, name: str, remembers: bool, task: Task, recipe: Recipe, parts: tuple[Examples, ...]
) -> Training:
    training = Training(built(name, remembers, task, recipe), parts[0], parts[1], recipe)
    bar = tqdm(total=training.steps, desc=key, unit="step", smoothing=0.05)

    def watch(loss: float) -> None:
        bar.update(training.step - bar.n)
        held_out = f"{100 * training.curve[-1]:.1f}" if training.curve else "-"
        bar.set_postfix(loss=f"{loss:.3f}", held_out=held_out)

    size = "_".join(str(number) for number in (*asdict(task).values(), len(parts[0].numbers)))
    train(training, Path(f"runs/{key}_{size}_{recipe.seed}.pt"), watch=watch)
    bar.close()
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


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sequence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    defaults = {**asdict(Task()), **asdict(Recipe())}
    parts = defaults.pop("parts")
    for name, default in {**COUNTS, **defaults}.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(default), default=default, help="%(default)s")
    parser.add_argument("--parts", type=_parts, default=parts, help="of each epoch")
    options = parser.parse_args(arguments)
    given = {
        name: value for name, value in vars(options).items() if value != parser.get_default(name)
    }
    options.published = not given
    if "parts" in given:
        given["parts"] = ",".join(map(str, options.parts))
    options.told = [f"--{name.replace('_', '-')} {value}" for name, value in given.items()]
    return options


def _parts(text: str) -> tuple[int, ...]:
    """16,1 as numbers."""
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    sys.exit(main())
