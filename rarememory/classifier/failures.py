"""What a model was given where it failed, and what to give instead."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from rarememory.classifier.arrays import is_array
from rarememory.classifier.examples import are_labels, repeated


@contextmanager
def one_example_named(inputs: Any, labels: Any, dims: int | None) -> Iterator[None]:
    """Where inputs with one label fail, say that they were taken as one example.

    Args:
        inputs: as the user gave them.
        labels: as the user gave them.
        dims: dimensions of one example, if they are known.
    """
    try:
        yield
    except Exception as error:
        sentence = _taken_as_one(inputs, labels, dims, error)
        if sentence is None:
            raise
        raise ValueError(sentence) from error


def _taken_as_one(inputs: Any, labels: Any, dims: int | None, error: Exception) -> str | None:
    """What to say where it is likely that several examples were meant; otherwise None."""
    shape = list(np.shape(inputs)) if is_array(inputs) else None
    taken = "the inputs" if shape is None else f"the inputs {shape}"
    if isinstance(labels, tuple):
        return (
            f"a tuple is one label, so {taken} were taken as one example with the label of "
            f"{len(labels)} parts [{len(labels)}], and that failed ({reason(error)}): give several "
            "labels in a list"
        )
    if labels is None or are_labels(labels):
        return None
    if shape is not None and dims is not None and len(shape) != dims + 1:
        return None
    count = len(inputs) if isinstance(inputs, list) else (shape or [0])[0]
    if not count:
        return None
    failed = "" if dims is not None and shape else f", and that failed ({reason(error)})"
    return (
        f"{taken} were taken as one example, since {labels!r} is one label{failed}: for {count} "
        f"examples give {count} labels, {repeated(labels, count)}"
    )


def reason(error: Exception) -> str:
    """The first line of an error; its kind if it says nothing."""
    return str(error).partition("\n")[0] or type(error).__name__
