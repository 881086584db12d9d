"""Budgets: policies that look at the classes, of which some may have few slots, or keep theirs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from rarememory.base.validation import check_count
from rarememory.memory.selections import Selection
from rarememory.memory.updates import ByAgeAndNoise, FirstInFirstOut, Update


class Around:
    """A policy around another one, which says what is averaged and which slots go first."""

    update: Update

    def averages(self, hits: Bool[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """Those of the policy inside."""
        return self.update.averages(hits)

    def eviction(
        self, ages: Float64[Tensor, " slots"], noise: Float64[Tensor, " slots"]
    ) -> Float64[Tensor, " slots"]:
        """That of the policy inside."""
        return self.update.eviction(ages, noise)


@dataclass(frozen=True)
class PerClass(Around):
    """Let no class have more than so many slots: a new row of a full class takes one of its own.

    Which one goes is what `update` gives up first among them, the oldest without it. Or a selection
    chooses: of the class's slots and the new rows those are kept that it takes, by the mean of all
    rows that the class was written with; nothing is averaged then, and the sum of these rows is
    kept as the buffer `class_sums`. A class with room takes a slot as ever. Rows that have no place
    (more of a class than it may have in one write, or not selected) are not kept: their slot is
    EMPTY. A write looks at its labels, so a GPU's host waits, and it does not compile in one piece.

    Args:
        slots: of a class; or a selection, of so many as its count.
        update: what is averaged, and which slots are given up first.

    Raises:
        ValueError: the slots are no integer of at least 1 and no selection, or there is another
            budget inside.

    Example:
        >>> from rarememory import Memory
        >>> memory = Memory(key_dim=2, memory_size=8, update=PerClass(2))
        >>> [int(memory.write(row, torch.tensor(7)).slots) for row in torch.ones(5, 2)]
        [0, 1, 0, 1, 0]
    """

    slots: int | Selection
    update: Update = field(default_factory=FirstInFirstOut)

    def __post_init__(self) -> None:
        if self.selection is None:
            check_count("slots", self.slots)
        if isinstance(self.update, Around | Reservoir) or not isinstance(self.update, Update):
            raise ValueError(
                f"PerClass takes a policy such as FirstInFirstOut(), not {self.update}"
            )

    @property
    def selection(self) -> Selection | None:
        """What chooses, if it is not the policy inside."""
        return self.slots if isinstance(self.slots, Selection) else None

    @property
    def most(self) -> int:
        """Slots that a class may have."""
        return self.slots.count if isinstance(self.slots, Selection) else self.slots

    def averages(self, hits: Bool[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """Those of the policy inside; none beside a selection."""
        return super().averages(hits) if self.selection is None else torch.zeros_like(hits)


@dataclass(frozen=True)
class Reservoir(ByAgeAndNoise):
    """Keep a uniform sample of all rows that were ever written: each is in it as likely as another.

    While there is room a row takes a slot. After that, with t rows before it, j is drawn from 0 ...
    t; if j is below the number of slots, the row takes the j-th, and otherwise it is not kept
    (Vitter 1985, "Random sampling with a reservoir", algorithm R): its slot is EMPTY. Nothing is
    averaged. The draw is number t of the memory's own sequence (of a sequence for each class), so
    it is exact on resuming; t is kept as the buffer `offered`. What is forgotten makes room for the
    next row, which is in the sample for certain then.

    Args:
        per_class: keep a sample of each class, in so many slots; if None one of the whole stream,
            in all slots. With more classes than there is room for, the oldest slots go.

    Raises:
        ValueError: `per_class` is no integer of at least 1.

    Example:
        >>> from rarememory import Memory
        >>> memory = Memory(key_dim=2, memory_size=3, update=Reservoir())
        >>> [int(memory.write(torch.ones(2), torch.tensor(n)).slots) for n in range(9)]
        [0, 1, 2, -1, 0, 1, 1, -1, 2]
    """

    per_class: int | None = None

    def __post_init__(self) -> None:
        if self.per_class is not None:
            check_count("per_class", self.per_class)


@dataclass(frozen=True)
class Protected(Around):
    """Give up no slot of these classes for a row of another one.

    Their own rows are averaged into them as ever, and under `PerClass` replace them. Where a row
    needs a slot and all others are protected, the write is refused. `forget` and `clear` still do
    what they are told; `merge` and a smaller size keep these classes before the others.

    Args:
        labels: of the classes.
        update: any other policy, whose word counts for the rest.

    Raises:
        ValueError: a label is no integer of at least 0, or a reservoir draws from all slots.

    Example:
        >>> from rarememory import Memory
        >>> memory = Memory(key_dim=2, memory_size=2, update=Protected([7]))
        >>> write = memory.write(torch.eye(2), torch.tensor([7, 8]))
        >>> [int(memory.write(-torch.ones(2), torch.tensor(n)).overwritten) for n in (9, 10)]
        [8, 9]
    """

    labels: Iterable[int]
    update: Update = field(default_factory=FirstInFirstOut)

    def __post_init__(self) -> None:
        labels = tuple(self.labels) if isinstance(self.labels, Iterable) else (None,)
        if not all(type(label) is int and label >= 0 for label in labels):
            raise ValueError(f"labels to protect must be integers >= 0, not {self.labels}")
        if isinstance(self.update, Protected) or not isinstance(self.update, Update):
            raise ValueError(f"Protected takes a policy such as PerClass(2), not {self.update}")
        if isinstance(self.update, Reservoir) and self.update.per_class is None:
            raise ValueError(
                "a sample of the whole stream protects no class: Reservoir(per_class=...)"
            )
        object.__setattr__(self, "labels", tuple(sorted({*labels})))


BY_CLASS = (Protected, PerClass, Reservoir)
"""Policies that look at the classes of rows and slots."""


class Layers(NamedTuple):
    """The parts of a policy.

    Attributes:
        protected: labels of classes that give up no slot for another one.
        budget: of the slots of a class, if there is one.
        rule: what gives up slots beside that.
    """

    protected: tuple[int, ...]
    budget: PerClass | Reservoir | None
    rule: Update


def layers_of(update: Update) -> Layers:
    """The parts of a policy.

    Example:
        >>> layers_of(Protected([3], PerClass(2)))
        Layers(protected=(3,), budget=PerClass(slots=2, update=FirstInFirstOut()), \
rule=FirstInFirstOut())
    """
    protected: tuple[int, ...] = ()
    if isinstance(update, Protected):
        protected, update = tuple(update.labels), update.update
    budget = update if isinstance(update, PerClass | Reservoir) else None
    return Layers(protected, budget, update.update if isinstance(update, PerClass) else update)


def protecting(update: Update, labels: Iterable[int]) -> Update:
    """The policy with these protected classes in place of those that it has.

    Example:
        >>> protecting(Protected([3]), [5, 4]), protecting(Protected([3]), [])
        (Protected(labels=(4, 5), update=FirstInFirstOut()), FirstInFirstOut())
    """
    bare = update.update if isinstance(update, Protected) else update
    return Protected(labels, bare) if (labels := tuple(labels)) else bare
