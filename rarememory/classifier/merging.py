"""Taking over what another memory holds, under the labels of another book."""

import warnings

import torch

from rarememory.base.state import EMPTY
from rarememory.classifier.label_book import LabelBook
from rarememory.classifier.labels import Label, check_labels
from rarememory.classifier.tuned_keys import untuned
from rarememory.memory import Memory

_NAMED = 5


def take_over(
    memory: Memory, book: LabelBook, other: Memory, other_book: LabelBook, unknown: Label
) -> tuple[int, list[Label]]:
    """Write what another memory holds into this one.

    Args:
        memory: to write to, as `Memory.merge` does.
        book: of the memory; labels and refs are added to it.
        other: the other memory.
        other_book: of the other memory; its labels are joined by name.
        unknown: what no label may be.

    Returns:
        How many slots were taken, and the labels of which no example is left, for want of room.

    Raises:
        ValueError: the memories do not fit, or a label is `unknown`; nothing is changed.
    """
    numbers = other.values.unique()
    numbers = numbers[numbers != EMPTY]
    labels = other_book.labels(numbers)
    check_labels(labels, unknown)
    if not len(numbers):
        return 0, []
    ids = other.values.new_tensor([*book.ids(labels), EMPTY])
    values = ids[torch.searchsorted(numbers, other.values).clamp(max=len(numbers))]
    values = values.where(other.values != EMPTY, EMPTY).to(memory.values.device)
    before = torch.cat([memory.values, values]).unique()
    with untuned(memory):
        slots = memory.merge(other, values=values)
    book.add(labels)
    for theirs, slot in enumerate(slots.tolist()):
        if slot != EMPTY:
            book.put_refs(slot, other_book.refs(theirs))
    lost = before[(before != EMPTY) & ~torch.isin(before, memory.values)]
    return int((slots != EMPTY).sum()), [book.label(number) for number in lost.tolist()]


def warn_of_lost(labels: list[Label], slots: int, stacklevel: int) -> None:
    """Warn of labels of which no example is left after a merge, if there are such."""
    if labels:
        some = ", ".join(map(repr, labels[:_NAMED]))
        warnings.warn(
            f"the {slots} slots have no room for all, and no example is left of {some}"
            f"{', ...' if len(labels) > _NAMED else ''}: resize before the merge to keep them",
            stacklevel=stacklevel + 1,
        )
