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
) -> int:
    """Write what another memory holds into this one, and return how many slots were taken.

    It warns of labels of which no example is left, for want of room.

    Args:
        memory: to write to, as `Memory.merge` does.
        book: of the memory; labels and refs are added to it.
        other: the other memory.
        other_book: of the other memory; its labels are joined by name.
        unknown: what no label may be.

    Raises:
        ValueError: the memories do not fit, or a label is `unknown`; nothing is changed.
    """
    numbers = other.values.unique()
    numbers = numbers[numbers != EMPTY]
    labels = other_book.labels(numbers)
    check_labels(labels, unknown)
    if not len(numbers):
        return 0
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
    if len(lost):
        some = ", ".join(repr(book.label(number)) for number in lost[:_NAMED].tolist())
        warnings.warn(
            f"the {len(memory.values)} slots have no room for all, and no example is left of "
            f"{len(lost)} classes, such as {some}: resize before the merge to keep them",
            stacklevel=2,
        )
    return int((slots != EMPTY).sum())
