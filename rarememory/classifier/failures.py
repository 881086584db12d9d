"""What a model was given where it failed, and what to give instead."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rarememory.base.files import IMAGE_SUFFIXES
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
    except (MemoryError, OSError, torch.OutOfMemoryError):
        raise
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
            f"{len(labels)} parts [{len(labels)}], and that failed ({_reason(error)}): give "
            "several labels in a list"
        )
    if labels is None or are_labels(labels):
        return None
    if shape is not None and dims is not None and len(shape) != dims + 1:
        return None
    count = len(inputs) if isinstance(inputs, list) else (shape or [0])[0]
    if not count:
        return None
    why = _reason(error.__cause__ or error)
    failed = "" if dims is not None and shape else f", and that failed ({why})"
    several = "a batch of one example give one label in a list"
    if count > 1:
        several = f"{count} examples give {count} labels"
    return (
        f"{taken} were taken as one example, since {labels!r} is one label{failed}: for {several}, "
        f"{repeated(labels, count)}"
    )


@contextmanager
def inputs_named(inputs: Any) -> Iterator[None]:
    """Where a model fails on inputs that are no tensor, say what they are and what to give.

    What a text encoder says of texts is left as it is, but for errors that come of a wrong type.
    """
    try:
        yield
    except Exception as error:
        if isinstance(inputs, list) and inputs:
            if _is_file(inputs[0]):
                raise ValueError(
                    f"the model cannot take the name of a file, {os.fspath(inputs[0])!r}: give the "
                    "tensor that the model's transforms make of the image in it, as in "
                    "transforms(rarememory.commands.images.open_image(name))"
                ) from error
            if isinstance(error, AttributeError | TypeError):
                raise ValueError(
                    f"the model cannot take a list of {type(inputs[0]).__name__} "
                    f"({_reason(error)}): give what it takes, most often a tensor with a row for "
                    "each example"
                ) from error
        raise


def _is_file(example: Any) -> bool:
    """Whether this is a path, or a text that ends as the name of an image does."""
    if isinstance(example, str):
        return Path(example).suffix.lower() in IMAGE_SUFFIXES
    return isinstance(example, os.PathLike)


def _reason(error: BaseException) -> str:
    """The first line of an error; its kind if it says nothing."""
    return str(error).partition("\n")[0] or type(error).__name__
