"""The book of names: any hashable label <-> an integer that a memory can hold."""

import math
from collections.abc import Collection, Hashable, Iterable, Iterator
from typing import Any

import numpy as np
from torch import Tensor

Label = Hashable
"""A str, int, bool, float, None, a tuple of these, or whatever else can be hashed."""


class Names:
    """Labels in the order they came, and their integers; an integer is never given twice.

    Labels of different types are different labels: 1, True, 1.0 and "1" are four. NumPy's scalars
    are the Python numbers that they hold.

    Example:
        >>> names = Names(["kea", "kakapo"])
        >>> names.ids(["kakapo", ("weka", 2)])
        [1, 2]
        >>> names.add(["weka"]), names.label(2), list(names)
        ([2], 'weka', ['kea', 'kakapo', 'weka'])
    """

    def __init__(self, labels: Iterable[Label] = ()) -> None:
        self._ids: dict[Any, int] = {}
        self._labels: dict[int, Label] = {}
        self.next_id = 0
        self.add(labels)

    def ids(self, labels: Iterable[Label]) -> list[int]:
        """The integers these labels have, or would get if they were added now."""
        fresh: dict[Any, int] = {}
        ids = []
        for label in labels:
            key = _exactly(plain(label))
            known = self._ids.get(key)
            ids.append(fresh.setdefault(key, self.next_id + len(fresh)) if known is None else known)
        return ids

    def add(self, labels: Iterable[Label]) -> list[int]:
        """The integers of these labels, new ones written down."""
        labels = [plain(label) for label in labels]
        ids = self.ids(labels)
        for label, number in zip(labels, ids, strict=True):
            self._write_down(label, number)
        return ids

    def _write_down(self, label: Label, number: int) -> None:
        self._ids[_exactly(label)] = number
        self._labels.setdefault(number, label)
        self.next_id = max(self.next_id, number + 1)

    def known(self, labels: Iterable[Label]) -> list[int]:
        """The integers of labels that have to be in the book.

        Raises:
            ValueError: a label is not.
        """
        ids = self.ids(labels := list(labels))
        strangers = [
            label for label, number in zip(labels, ids, strict=True) if number not in self._labels
        ]
        if strangers:
            some = ", ".join(repr(label) for label in list(self)[:5])
            more = f" and {len(self) - 5} more" if len(self) > 5 else ""
            raise ValueError(
                f"{strangers[0]!r} is not known here; known: {some or 'nothing'}{more}"
            )
        return ids

    def label(self, number: int) -> Label:
        """The label of an integer."""
        return self._labels[number]

    def keep(self, ids: Collection[int]) -> None:
        """Strike out every label but those of these integers."""
        for number in [number for number in self._labels if number not in ids]:
            del self._ids[_exactly(self._labels.pop(number))]

    def as_json(self) -> dict[str, Any]:
        """What `from_json` makes this book of again."""
        labels = [[number, encoded(label)] for number, label in self._labels.items()]
        return {"next": self.next_id, "labels": labels}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Names":
        """The book that `as_json` wrote."""
        names = cls()
        for number, label in stored["labels"]:
            names._write_down(decoded(label), number)
        names.next_id = stored["next"]
        return names

    def __iter__(self) -> Iterator[Label]:
        return iter(self._labels.values())

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def numbers(self) -> list[int]:
        """Integers of the labels, in their order."""
        return list(self._labels)


def check_nameable(labels: Iterable[Label], unknown: Label) -> None:
    """Refuse a class of the name that what is not known is called by."""
    if unknown in labels:
        raise ValueError(
            f"{unknown!r} is what predict says of what it does not know, and no class can be "
            "called that: choose another label, or wrap(..., unknown=...)"
        )


def plain(label: Any) -> Label:
    """The label as Python has it: NumPy scalars and tensors of one number lose their wrapping.

    Raises:
        ValueError: it cannot be hashed, or it is NaN, which equals nothing, not even itself.
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
    return tuple(plain(part) for part in label) if type(label) is tuple else label


def _exactly(label: Label) -> Any:
    """A key that tells 1, True and 1.0 apart, which Python holds equal."""
    if type(label) is tuple:
        return (tuple, *(_exactly(part) for part in label))
    return (type(label), label)


def encoded(label: Label) -> Any:
    """A label, or a ref, as JSON that `decoded` gives back exactly.

    Raises:
        ValueError: it is none of str, int, bool, float, None and tuples of these.
    """
    if type(label) is tuple:
        return {"tuple": [encoded(part) for part in label]}
    if label is None or type(label) in (str, int, bool, float):
        return label
    raise ValueError(
        "labels and refs are saved if they are str, int, bool, float, None or tuples of these, and "
        f"{label!r} is a {type(label).__name__}"
    )


def decoded(stored: Any) -> Label:
    """What `encoded` was given."""
    if isinstance(stored, dict):
        return tuple(decoded(part) for part in stored["tuple"])
    label: Label = stored
    return label
