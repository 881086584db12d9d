"""bAbI by an End-To-End Memory Network: train it, choose a restart, test it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rarememory.base.validation import check_count
from rarememory.data.babi import BabiTask, StoryQuestion
from rarememory.readers.memn2n import MemN2N
from rarememory.readers.questions import Vocabulary, encode_questions
from rarememory.readers.training import Epoch, Recipe, Training, errors_of

FAILED = 5.0
"""A task with a greater test error, in %, counts as failed."""


@dataclass(frozen=True)
class Setup:
    """A kind of reader and its training.

    Args:
        hops: of the reader.
        dim: of its embeddings.
        restarts: how often it is trained, all at once; the lowest training error is kept.
        memory_size: how many of the last sentences of a story it reads.
        tying: of its matrices.
        encoding: of its sentences.
        nonlinear: ReLU after each hop.
        recipe: of the training.

    Raises:
        ValueError: a number is less than 1.

    Example:
        >>> Setup.per_task().dim, Setup.joint().dim
        (20, 50)
    """

    hops: int = 3
    dim: int = 20
    restarts: int = 10
    memory_size: int = 50
    tying: str = "adjacent"
    encoding: str = "position"
    nonlinear: bool = False
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        for name in ("hops", "dim", "restarts", "memory_size"):
            check_count(name, getattr(self, name))

    @classmethod
    def per_task(cls, **changes: Any) -> "Setup":
        """The paper's for one task: d = 20, 100 epochs, ten restarts.

        No question is held out: a linear start of 20 epochs ends by itself.

        Example:
            >>> Setup.per_task().recipe.validation_part
            0.0
        """
        return cls(**{"recipe": Recipe(validation_part=0.0), **changes})

    @classmethod
    def joint(cls, **changes: Any) -> "Setup":
        """The paper's for all tasks together: d = 50, 60 epochs; one restart."""
        recipe = Recipe(epochs=60, halve_every=15, linear_epochs=30, patience=30, shuffle=True)
        return cls(**{"dim": 50, "restarts": 1, "recipe": recipe, **changes})


class Outcome(NamedTuple):
    """A trained reader and how it answers the test questions.

    Attributes:
        reader: the restart of the lowest training error (of equal ones, of the lowest training
            loss); its test error had no say.
        vocabulary: of the training questions.
        errors: test error in % of each task, by its number.
        restarts: of every restart, the training error and the test error, in %; the mean of tasks.
        chosen: the place of the kept one among the restarts.
        epochs: how many the training had.
        seconds: that the training took.

    Example:
        >>> Outcome(MemN2N(3, 5), Vocabulary([]), {1: 0.0, 2: 7.0}, [(0, 3.5)], 0, 1, 0.1).failed
        1
    """

    reader: MemN2N
    vocabulary: Vocabulary
    errors: dict[int, float]
    restarts: list[tuple[float, float]]
    chosen: int
    epochs: int
    seconds: float

    @property
    def mean_error(self) -> float:
        """Mean test error over the tasks, in %."""
        return sum(self.errors.values()) / len(self.errors)

    @property
    def failed(self) -> int:
        """Tasks of a test error above FAILED."""
        return sum(error > FAILED for error in self.errors.values())


def train_babi(
    tasks: Sequence[BabiTask],
    setup: Setup,
    *,
    checkpoint: Path | None = None,
    watch: Callable[[Epoch], object] = lambda epoch: None,
) -> Outcome:
    """Train one reader on these tasks together, and test it on each.

    Args:
        tasks: one, or several.
        setup: the kind of reader and its training.
        checkpoint: see `Training.train`.
        watch: called after every epoch.

    Example:
        >>> question = StoryQuestion(("Mary is here.",), "Where is Mary?", "here")
        >>> task = BabiTask(1, "single-supporting-fact", (question,) * 40, (question,))
        >>> recipe = Recipe(epochs=2, linear_epochs=0)
        >>> train_babi([task], Setup(restarts=2, recipe=recipe)).errors.keys()
        dict_keys([1])
    """
    training, vocabulary = untrained(tasks, setup)
    training.train(checkpoint, watch=watch)
    learnt = errors_of(training.reader, training.train_questions)
    chosen = learnt.best
    errors = {}
    for task in tasks:
        test = encode_questions(task.test, vocabulary, training.reader.memory_size)
        errors[task.number] = 100 * errors_of(training.reader, test).error
    means = torch.stack(list(errors.values())).mean(0)
    return Outcome(
        training.reader.only(chosen),
        vocabulary,
        {number: round(error[chosen].item(), 2) for number, error in errors.items()},
        [
            (round(100 * train, 2), round(test, 2))
            for train, test in zip(learnt.error.tolist(), means.tolist(), strict=True)
        ],
        chosen,
        training.epoch,
        training.seconds,
    )


def untrained(tasks: Iterable[BabiTask], setup: Setup) -> tuple[Training, Vocabulary]:
    """The training that `train_babi` begins with, and the words of its questions.

    Example:
        >>> question = StoryQuestion(("Mary is here.",), "Where is Mary?", "here")
        >>> task = BabiTask(1, "single-supporting-fact", (question,) * 40, (question,))
        >>> training, vocabulary = untrained([task], Setup())
        >>> training.reader.models, vocabulary.words
        (10, ('', 'here', 'is', 'mary', 'where'))
    """
    questions: list[StoryQuestion] = [one for task in tasks for one in task.train]
    vocabulary = Vocabulary.of(questions)
    longest = max(len(one.story) for one in questions)
    memory_size = min(setup.memory_size, longest)
    numbers = encode_questions(questions, vocabulary, memory_size)
    reader = MemN2N(
        len(vocabulary),
        memory_size,
        hops=setup.hops,
        dim=setup.dim,
        models=setup.restarts,
        tying=setup.tying,
        encoding=setup.encoding,
        nonlinear=setup.nonlinear,
        # One more for the time, which the authors' code has as a last word.
        sentence_length=numbers.sentences.shape[1] + 1,
        empty_slots=True,
        seed=setup.recipe.seed,
    )
    return Training(reader, numbers, setup.recipe), vocabulary
