"""Labels and refs: what may be one, and how it is written as JSON."""

import os
from collections.abc import Callable, Hashable, Iterable
from enum import Enum
from typing import Any
from unicodedata import normalize

import numpy as np
from torch import Tensor

from rarememory.classifier.arrays import named_rows

Label = Hashable
"""A str, int, bool, float, None, or a tuple of these, which a file can hold."""


def python_label(label: Any, name: str = "label") -> Label:
    """The label as a Python object: a NumPy scalar or a tensor of one number becomes that number.

    A member of a StrEnum or an IntEnum, and whatever else is a str, an int, a float or a tuple by
    inheritance, becomes the plain value that it equals, which a file can hold.

    Args:
        label: what was given as one.
        name: what errors call it.

    Raises:
        ValueError: it cannot be hashed, it is a missing value, which does not equal itself, or a
            file cannot hold it.
    """
    if type(label) in (str, int, bool):
        # What most labels are: nothing has to be checked.
        return label  # type: ignore[no-any-return]
    if isinstance(label, Tensor) and label.dim() > 0:
        raise ValueError(f"a {name} must be one thing, not a tensor of shape {list(label.shape)}")
    try:
        hash(label)
    except TypeError:
        raise ValueError(
            f"a {name} must be hashable (str, int, tuple, ...), not the {type(label).__name__} "
            f"{label!r}"
        ) from None
    if is_missing(label):
        raise ValueError(
            f"a {name} must equal itself, and {label} does not: name it, or leave the example out"
        )
    # NumPy gives a time as a date or as a number, by its unit.
    if isinstance(label, np.generic | Tensor) and not isinstance(label, _TIMES):
        label = label.item()
    if isinstance(label, tuple):
        return tuple(python_label(part, name) for part in label)
    for kind, value in _VALUES.items():
        # bool is an int by inheritance, and stays what it is.
        if isinstance(label, kind) and type(label) not in (kind, bool):
            return value(label)
    _check_kept(label, name)
    plain: Label = label
    return plain


def _check_kept(label: Any, name: str) -> None:
    """Refuse what a file cannot hold, when it is given: in `save` it is too late to change it."""
    if type(label) in _KEPT:
        return
    # The text of a set has another order in the next program.
    ways = {Enum: "{}.name", bytes: "{}.hex()", frozenset: "tuple(sorted({}))"}
    way = next((way for kind, way in ways.items() if isinstance(label, kind)), "str({})")
    raise ValueError(
        f"a {name} must be a str, int, float, bool, None or a tuple of these, which a file can "
        f"hold, and {label!r} is a {type(label).__name__}: write {way.format(name)}"
    )


_KEPT = (str, int, bool, float, type(None))
_TIMES = (np.datetime64, np.timedelta64)
# An enumeration may have a text of its own, which is not its value: `str(member)` gives that.
_VALUES: dict[type, Callable[[Any], Label]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
}


def python_labels(labels: Iterable[Any]) -> list[Label]:
    """All labels as Python objects.

    Raises:
        ValueError: some are missing, whose rows are named; or one cannot be a label.
    """
    return [python_label(label) for label in _none_missing("labels", labels)]


def python_ref(ref: Any) -> Label:
    """The ref as a Python object; a path becomes a str."""
    return python_label(os.fspath(ref) if isinstance(ref, os.PathLike) else ref, "ref")


def python_refs(refs: Iterable[Any]) -> list[Label]:
    """All refs as Python objects; a path becomes a str. Errors are those of `python_labels`."""
    return [python_ref(ref) for ref in _none_missing("refs", refs)]


def check_labels(labels: Iterable[Label], unknown: Label) -> None:
    """Refuse a class with the label that `predict` returns for unknown examples."""
    if one_spelling(unknown) in map(one_spelling, labels):
        raise ValueError(
            f"{unknown!r} is what predict says of what it does not know, and no class can be "
            "called that: choose another label, or wrap(..., unknown=...)"
        )


def one_spelling(label: Label) -> Label:
    """The label or ref, equal to those that differ only in how Unicode spells their accents.

    "é" is one character on most systems, and "e" with an accent in the names of files that come
    from a Mac.

    Example:
        >>> one_spelling(("cafe\u0301", 1)) == ("caf\u00e9", 1)
        True
    """
    if type(label) is tuple:
        return tuple(one_spelling(part) for part in label)
    return normalize("NFC", label) if type(label) is str else label


def typed_label(label: Label) -> Any:
    """A dictionary key that tells 1, True and 1.0 apart, which are equal in Python.

    Two spellings of one text have one key (`one_spelling`).
    """
    if type(label) is tuple:
        return (tuple, *(typed_label(part) for part in label))
    return (type(label), one_spelling(label))


def label_to_json(label: Label) -> Any:
    """A label or a ref as JSON, from which `label_from_json` gives back the same object.

    Raises:
        ValueError: it is none of str, int, bool, float, None and tuples of these.
    """
    if type(label) is tuple:
        return {"tuple": [label_to_json(part) for part in label]}
    if type(label) in _KEPT:
        return label
    # A label that an older version learnt, and pickled.
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


def _none_missing(name: str, labels: Iterable[Any]) -> list[Any]:
    labels = list(labels)
    rows = [row for row, label in enumerate(labels) if is_missing(label)]
    if rows:
        raise ValueError(
            f"{name} are missing (NaN, NaT or NA) in {named_rows(rows)}: fill them in, or leave "
            "these examples out"
        )
    return labels


def is_missing(label: Any) -> bool:
    """Whether this stands for a value that is not there: NaN, NaT, pandas.NA."""
    try:
        return bool(label != label)
    except TypeError:
        # pandas.NA is neither equal to itself nor different.
        return True
    except (ValueError, RuntimeError):
        # Arrays of several numbers, which are no missing value.
        return False
