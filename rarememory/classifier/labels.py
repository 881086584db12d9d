"""Labels and refs: what may be one, and how it is written as JSON."""

import math
import os
from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
from torch import Tensor

Label = Hashable
"""A str, int, bool, float, None, a tuple of these, or any other hashable object."""


def python_label(label: Any) -> Label:
    """The label as a Python object: a NumPy scalar or a tensor of one number becomes that number.

    Raises:
        ValueError: it cannot be hashed, or it is NaN, which does not equal itself.
    """
    if isinstance(label, np.generic) or (isinstance(label, Tensor) and label.dim() == 0):
        label = label.item()
    if isinstance(label, Tensor):
        raise ValueError(f"a label must be one thing, not a tensor of shape {list(label.shape)}")
    try:
        hash(label)
    except TypeError:
        raise ValueError(
            f"a label must be hashable (str, int, tuple, ...), not the {type(label).__name__} "
            f"{label!r}"
        ) from None
    if isinstance(label, float) and math.isnan(label):
        raise ValueError("a label must equal itself, and NaN does not: name it, or leave it out")
    return tuple(python_label(part) for part in label) if type(label) is tuple else label


def python_ref(ref: Any) -> Label:
    """The ref as a Python object; a path becomes a str."""
    return python_label(os.fspath(ref) if isinstance(ref, os.PathLike) else ref)


def check_labels(labels: Iterable[Label], unknown: Label) -> None:
    """Refuse a class with the label that `predict` returns for unknown examples."""
    if unknown in labels:
        raise ValueError(
            f"{unknown!r} is what predict says of what it does not know, and no class can be "
            "called that: choose another label, or wrap(..., unknown=...)"
        )


def typed_label(label: Label) -> Any:
    """A dictionary key that tells 1, True and 1.0 apart, which are equal in Python."""
    if type(label) is tuple:
        return (tuple, *(typed_label(part) for part in label))
    return (type(label), label)


def label_to_json(label: Label) -> Any:
    """A label or a ref as JSON, from which `label_from_json` gives back the same object.

    Raises:
        ValueError: it is none of str, int, bool, float, None and tuples of these.
    """
    if type(label) is tuple:
        return {"tuple": [label_to_json(part) for part in label]}
    if label is None or type(label) in (str, int, bool, float):
        return label
    raise ValueError(
        "labels and refs are saved if they are str, int, bool, float, None or tuples of these, and "
        f"{label!r} is a {type(label).__name__}"
    )


def label_from_json(stored: Any) -> Label:
    """The label or ref that `label_to_json` was given."""
    if isinstance(stored, dict):
        return tuple(label_from_json(part) for part in stored["tuple"])
    label: Label = stored
    return label
