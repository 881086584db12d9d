"""The label book: labels and their integers, and the refs of the examples in each slot."""

from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from rarememory.base.derived import Derived
from rarememory.base.state import EMPTY
from rarememory.classifier.labels import (
    Label,
    label_from_json,
    label_to_json,
    one_spelling,
    python_label,
    typed_label,
)

MAX_REFS = 32
"""A slot keeps the refs of the latest so many examples averaged into it."""


class LabelBook:
    """A label <-> an integer that a memory can hold; and the refs of each slot.

    Labels have integers in the order they came; an integer is never given twice. Labels of
    different types are different labels: 1, True, 1.0 and "1" are four. Two spellings of
    one text in Unicode are one label, in the spelling that came first. A ref says where an example
    comes from (a path, an id), in any spelling; None is no ref.

    The memory may lose slots without the book being asked (`memory.forget`), so what is read from
    the book is compared with the memory's values: see `present` and `restricted`.

    Example:
        >>> book = LabelBook(["kea", "kakapo"])
        >>> book.ids(["kakapo", ("weka", 2)])
        [1, 2]
        >>> book.add(["weka"]), book.label(2), list(book)
        ([2], 'weka', ['kea', 'kakapo', 'weka'])
        >>> book.note_refs([0, 0], [True, False], [["a.png"], ["c.png"]])
        >>> book.refs(0), book.slots_by_ref()["c.png"]
        (('a.png', 'c.png'), [0])
    """

    def __init__(self, labels: Iterable[Label] = ()) -> None:
        self._ids: dict[Any, int] = {}
        self._labels: dict[int, Label] = {}
        self._refs: dict[int, tuple[Label, ...]] = {}
        self._next_id = 0
        self._present: Derived[Tensor] = Derived()
        # In a draft: what slots had before.
        self._before: dict[int, tuple[Label, ...]] | None = None
        self.add(labels)

    # Labels

    def __iter__(self) -> Iterator[Label]:
        return iter(self._labels.values())

    def __len__(self) -> int:
        return len(self._labels)

    def label(self, number: int) -> Label:
        """The label of an integer."""
        return self._labels[number]

    def labels(self, ids: Int64[Tensor, " classes"]) -> list[Label]:
        """The labels of these integers."""
        return [self._labels[number] for number in ids.tolist()]

    def ids(self, labels: Iterable[Label]) -> list[int]:
        """The integers that these labels have, or would get if they were added now."""
        new: dict[Any, int] = {}
        ids = []
        for label in labels:
            key = typed_label(python_label(label))
            known = self._ids.get(key)
            ids.append(new.setdefault(key, self._next_id + len(new)) if known is None else known)
        return ids

    def known_ids(self, labels: Iterable[Label]) -> list[int]:
        """The integers of labels that must be in the book.

        Raises:
            ValueError: a label is not.
        """
        ids = self.ids(labels := list(labels))
        for label, number in zip(labels, ids, strict=True):
            if number not in self._labels:
                some = ", ".join(repr(label) for label in list(self)[:5])
                more = f" and {len(self) - 5} more" if len(self) > 5 else ""
                raise ValueError(f"{label!r} is not known here; known: {some or 'nothing'}{more}")
        return ids

    @property
    def next_id(self) -> int:
        """The integer of the next new label."""
        return self._next_id

    def numbers(self) -> Set[int]:
        """The integers of all labels."""
        return self._labels.keys()

    def add(self, labels: Iterable[Label]) -> list[int]:
        """The integers of these labels; new labels are added."""
        labels = [python_label(label) for label in labels]
        ids = self.ids(labels)
        for label, number in zip(labels, ids, strict=True):
            self._set(label, number)
        return ids

    def _set(self, label: Label, number: int) -> None:
        self._ids[typed_label(label)] = number
        if number not in self._labels:
            self._labels[number], self._present = label, Derived()
        self._next_id = max(self._next_id, number + 1)

    def put_labels(self, labels: Mapping[int, Any], next_id: int) -> None:
        """Let these integers stand for these labels, in JSON, or for none where that is None."""
        for number, label in labels.items():
            if label is None:
                self._drop(number)
            else:
                self._set(label_from_json(label[0]), number)
        self._next_id = next_id

    def _drop(self, number: int) -> None:
        if number in self._labels:
            key, self._present = typed_label(self._labels.pop(number)), Derived()
            if self._ids.get(key) == number:
                del self._ids[key]

    @contextmanager
    def draft(self) -> Iterator[None]:
        """Undo at the end of the block what was added and noted in it, at the cost of just that."""
        following, self._before = self._next_id, {}
        try:
            yield
        finally:
            for slot, refs in self._before.items():
                self.put_refs(slot, refs)
            for number in range(following, self._next_id):
                self._drop(number)
            self._next_id, self._before = following, None

    # Refs

    def put_refs(self, slot: int, refs: tuple[Label, ...]) -> None:
        """Let a slot have these refs and no others."""
        self._refs[slot] = refs
        if not refs:
            del self._refs[slot]

    def refs(self, slot: int) -> tuple[Label, ...]:
        """The refs of a slot, the latest last."""
        return self._refs.get(slot, ())

    def slots_by_ref(self) -> dict[Label, list[int]]:
        """The slots of every ref, by its `one_spelling`."""
        slots: dict[Label, list[int]] = {}
        for slot, refs in self._refs.items():
            for ref in refs:
                slots.setdefault(one_spelling(ref), []).append(slot)
        return slots

    def note_refs(
        self, slots: list[int], replaced: list[bool], refs: Iterable[list[Label]]
    ) -> None:
        """Note the refs of examples that were written.

        Args:
            slots: of each row that was written.
            replaced: whether the row replaced what was in its slot; otherwise it was averaged in.
            refs: of the examples of each row.
        """
        if self._before is not None:
            for slot in slots:
                self._before.setdefault(slot, self.refs(slot))
        for slot in {slot for slot, new in zip(slots, replaced, strict=True) if new}:
            self._refs.pop(slot, None)
        for slot, some in zip(slots, refs, strict=True):
            for ref in some:
                if ref is not None:
                    spelt, refs_before = one_spelling(ref), self.refs(slot)
                    others = (one for one in refs_before if one_spelling(one) != spelt)
                    self._refs[slot] = (*others, ref)[-MAX_REFS:]

    def move_refs(self, old_slots: list[int]) -> None:
        """Follow a memory that was resized: the old slot of every new one."""
        pairs = ((new, self.refs(old)) for new, old in enumerate(old_slots))
        self._refs = {new: refs for new, refs in pairs if refs}

    # What is still remembered

    def present(
        self, values: Int64[Tensor, " slots"], host_ids: Int64[Tensor, " n_host"]
    ) -> Int64[Tensor, " classes"]:
        """The integers, ascending, of the labels that a slot or a class of the host has."""
        return self._present.of(self._find_present, values, host_ids)

    def _find_present(self, values: Tensor, host_ids: Tensor) -> Tensor:
        numbers = torch.tensor([*self._labels], dtype=torch.int64, device=values.device)
        # EMPTY marks the last place, which belongs to no label.
        used = torch.zeros(self._next_id + 1, dtype=torch.bool, device=values.device)
        used[values] = True
        used[host_ids] = True
        return numbers[used[numbers]]

    def restricted(
        self, values: Int64[Tensor, " slots"], host_ids: Int64[Tensor, " n_host"]
    ) -> "LabelBook":
        """A copy with the labels that are present, and the refs of occupied slots."""
        book = copy(self)
        book._before = None
        book._ids, book._labels, book._present = dict(self._ids), dict(self._labels), Derived()
        for number in self._labels.keys() - self.present(values, host_ids).tolist():
            book._ids.pop(typed_label(book._labels.pop(number)), None)
        # Files of an older version may have two spellings of a text, as two labels.
        if len(book._ids) < len(book._labels):
            book._ids = {typed_label(label): number for number, label in book._labels.items()}
        occupied = {*(values != EMPTY).nonzero().squeeze(1).tolist()}
        book._refs = {slot: refs for slot, refs in self._refs.items() if slot in occupied}
        return book

    def to_json(self) -> dict[str, Any]:
        """The book as JSON, for `from_json`."""
        # In the order of numbers and slots: equal books are equal in a file too.
        labels = [[number, label_to_json(self._labels[number])] for number in sorted(self._labels)]
        slots = sorted(self._refs)
        refs = [[slot, [label_to_json(ref) for ref in self._refs[slot]]] for slot in slots]
        return {"names": {"next": self._next_id, "labels": labels}, "refs": refs}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "LabelBook":
        """The book that `to_json` wrote."""
        book = cls()
        for number, label in stored["names"]["labels"]:
            book._set(label_from_json(label), number)
        book._next_id = stored["names"]["next"]
        book._refs = {slot: tuple(map(label_from_json, refs)) for slot, refs in stored["refs"]}
        return book
