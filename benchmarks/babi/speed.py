"""Questions per second of End-To-End Memory Networks, in batches and one at a time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from rarememory.data import BabiTask
from rarememory.readers import Questions, Setup, Training, errors_of
from rarememory.readers.babi import untrained

SECONDS = 2.0
"""How long each measurement takes."""


def speed(tasks: Sequence[BabiTask], seconds: float = SECONDS) -> dict[str, float]:
    """Training and answering per second: all tasks jointly, and ten restarts of the first task.

    A question that ten restarts are trained on counts ten times. The reference trains and answers
    by the same model, one question after another. `minutes` is what all epochs of the training take
    at that rate; of the trainings of each task, measured on each.
    """
    figures: dict[str, float] = {}
    for name, group, setup in (
        ("joint", tasks, Setup.joint()),
        ("per_task", tasks[:1], Setup.per_task()),
    ):
        training, _ = untrained(group, setup)
        alone, _ = untrained(group, replace(setup, restarts=1))
        one_by_one = _one_by_one(alone)
        models = training.reader.models
        rates = {
            "training": models * _rate(_steps(training), seconds),
            "training_one_by_one": _rate(one_by_one, seconds),
            "answering": models * _rate(_answers(training), seconds),
            "answering_one_by_one": _rate(_answers_one_by_one(alone), seconds),
        }
        for kind in ("training", "answering"):
            rates[f"{kind}_speed_up"] = rates[kind] / rates[f"{kind}_one_by_one"]
        figures |= {f"babi.speed.{name}.{kind}": rate for kind, rate in rates.items()}
    figures["babi.speed.joint.minutes"] = _minutes(tasks, Setup.joint(), seconds)
    figures["babi.speed.per_task.minutes"] = sum(
        _minutes([task], Setup.per_task(), seconds / 5) for task in tasks
    )
    return figures


def _minutes(tasks: Sequence[BabiTask], setup: Setup, seconds: float) -> float:
    """How long every epoch of a training takes: the linear start and what follows."""
    training, _ = untrained(tasks, setup)
    epochs = setup.recipe.epochs + setup.recipe.linear_epochs
    questions = epochs * len(training.train_questions.answers)
    return questions / _rate(_steps(training), seconds) / 60


def _rate(questions: Callable[[], int], seconds: float) -> float:
    """Questions per second of a function that says how many it did."""
    questions()
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        done += questions()
    return done / (time.perf_counter() - begin)


def _some(training: Training, n: int) -> Questions:
    questions = training.train_questions
    rows = torch.randint(len(questions.answers), (n,), generator=training.generator)
    return questions.at(rows)


def _steps(training: Training) -> Callable[[], int]:
    return lambda: training.step(_some(training, training.recipe.batch))


def _one_by_one(training: Training) -> Callable[[], int]:
    return lambda: training.step(_some(training, 1))


def _answers(training: Training) -> Callable[[], int]:
    def answer() -> int:
        errors_of(training.reader, _some(training, 256))
        return 256

    return answer


def _answers_one_by_one(training: Training) -> Callable[[], int]:
    @torch.no_grad()
    def answer() -> int:
        questions = _some(training, 1)
        training.reader(questions, bags=training.bags)
        return 1

    return answer
