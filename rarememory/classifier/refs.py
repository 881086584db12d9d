"""Provenance: the refs (paths, ids) of the examples that each slot rests on."""

import os
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from rarememory.classifier.labels import Label, decoded, encoded, plain

REFS_A_SLOT = 32
"""A slot that more examples are averaged into keeps the refs of the latest so many."""


class Refs:
    """The refs of every slot, in step with what is written and forgotten.

    An example that is averaged into a slot adds its ref to the slot's; one that replaces what was
    there begins anew. None is no ref.

    Example:
        >>> refs = Refs()
        >>> refs.note([0, 1, 0], [True, True, False], [["a.png"], ["b.png"], ["c.png"]])
        >>> refs.of(0), refs.slots_of(["b.png"])
        (('a.png', 'c.png'), {1})
    """

    def __init__(self) -> None:
        self._of: dict[int, tuple[Label, ...]] = {}

    def note(self, slots: list[int], fresh: list[bool], refs: Iterable[list[Label]]) -> None:
        """Examples of these refs went into this slot, replacing what was there if it is fresh."""
        for slot in {slot for slot, new in zip(slots, fresh, strict=True) if new}:
            self._of.pop(slot, None)
        for slot, ref in (
            (slot, ref) for slot, some in zip(slots, refs, strict=True) for ref in some
        ):
            if ref is not None:
                others = tuple(other for other in self.of(slot) if other != ref)
                self._of[slot] = (*others, ref)[-REFS_A_SLOT:]

    def of(self, slot: int) -> tuple[Label, ...]:
        """Refs of a slot, the latest last."""
        return self._of.get(slot, ())

    def slots_of(self, refs: Iterable[Label]) -> set[int]:
        """Slots that any of these refs went into."""
        slots = self.by_ref()
        return {slot for ref in refs for slot in slots.get(ref, ())}

    def by_ref(self) -> dict[Label, list[int]]:
        """The slots of every ref."""
        slots: dict[Label, list[int]] = {}
        for slot, refs in self._of.items():
            for ref in refs:
                slots.setdefault(ref, []).append(slot)
        return slots

    def keep(self, slots: Collection[int]) -> None:
        """Forget the refs of all slots but these."""
        self._of = {slot: refs for slot, refs in self._of.items() if slot in slots}

    def move(self, old_slots: list[int]) -> None:
        """Follow a resized memory: the old slot of every new one."""
        pairs = ((new, self.of(old)) for new, old in enumerate(old_slots))
        self._of = {new: refs for new, refs in pairs if refs}

    def as_json(self) -> list[Any]:
        """What `from_json` makes these refs of again."""
        return [[slot, [encoded(ref) for ref in refs]] for slot, refs in self._of.items()]

    @classmethod
    def from_json(cls, stored: list[Any]) -> "Refs":
        """The refs that `as_json` wrote."""
        refs = cls()
        refs._of = {slot: tuple(decoded(ref) for ref in there) for slot, there in stored}
        return refs

    def __iter__(self) -> Iterator[int]:
        """Slots that have refs."""
        return iter(self._of)


def plain_ref(ref: Any) -> Label:
    """The ref as Python has it; a path is its string."""
    return plain(os.fspath(ref) if isinstance(ref, os.PathLike) else ref)
