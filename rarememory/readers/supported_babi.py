"""bAbI by a Memory Network, with the supporting sentences of the training questions."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rarememory.data.babi import BabiTask
from rarememory.readers.memnn import MemNN
from rarememory.readers.memnn_training import SupportedRecipe, SupportedTraining, supported_error

N_GRAMS = (1, 3)
"""Words alone, or n-grams of up to three: the validation questions of a task choose."""


class SupportedOutcome(NamedTuple):
    """A trained Memory Network and how it answers the test questions.

    Attributes:
        reader: the one of the lowest validation error.
        n_grams: its longest n-gram.
        validation: validation error in % by the longest n-gram.
        error: test error in %.
        unsupported: part of the test questions in % for which it found another support.
        seconds: that all trainings took.

    Example:
        >>> from rarememory.data import StoryQuestion
        >>> question = StoryQuestion(("Mary is here.",), "Where is Mary?", "here", (0,))
        >>> SupportedOutcome(MemNN.of([question]), 1, {1: 0.0, 3: 2.0}, 0.0, 0.0, 1.0).n_grams
        1
    """

    reader: MemNN
    n_grams: int
    validation: dict[int, float]
    error: float
    unsupported: float
    seconds: float


def train_supported_babi(
    task: BabiTask,
    recipe: SupportedRecipe | None = None,
    *,
    dim: int = 50,
    validation_part: float = 0.1,
    checkpoint: Path | None = None,
    watch: Callable[[int], object] = lambda epoch: None,
) -> SupportedOutcome:
    """Train readers of words and of n-grams; the last training questions choose between them.

    They are adaptive and nonlinear, and tell supporting sentences apart by hop.

    Args:
        task: with the support of its training questions.
        recipe: how to train.
        dim: of the embeddings.
        validation_part: of the training questions, which are not trained on.
        checkpoint: its name is completed for each training.
        watch: called after every epoch.

    Raises:
        ValueError: the validation part leaves no questions for one of the two.

    Example:
        >>> from rarememory.data import StoryQuestion
        >>> question = StoryQuestion(("Mary is here.",), "Where is Mary?", "here", (0,))
        >>> task = BabiTask(1, "single-supporting-fact", (question,) * 40, (question,))
        >>> train_supported_babi(task, SupportedRecipe(epochs=1)).error
        0.0
    """
    kept = len(task.train) - int(validation_part * len(task.train))
    train, validation = task.train[:kept], task.train[kept:]
    if not train or not validation:
        raise ValueError(
            f"a validation part of {validation_part} leaves {len(train)} of {len(task.train)} "
            "questions to train on"
        )
    readers: dict[int, MemNN] = {}
    errors: dict[int, float] = {}
    seconds = 0.0
    for n_grams in N_GRAMS:
        reader = MemNN.of(
            task.train, n_grams=n_grams, dim=dim, adaptive=True, nonlinear=True, by_hop=True
        )
        training = SupportedTraining(reader, train, recipe)
        file = None if checkpoint is None else checkpoint.with_suffix(f".{n_grams}.pt")
        training.train(file, watch)
        readers[n_grams] = reader
        errors[n_grams] = 100 * supported_error(reader, validation)[0]
        seconds += training.seconds
    # Of equal errors the fewer features count.
    best = min(N_GRAMS, key=lambda n_grams: (errors[n_grams], n_grams))
    error, unsupported = supported_error(readers[best], task.test)
    return SupportedOutcome(
        readers[best], best, errors, round(100 * error, 2), round(100 * unsupported, 2), seconds
    )
