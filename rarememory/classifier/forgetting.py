"""Forgetting classes and examples, on demand or for want of room, and protection from that."""

from collections.abc import Iterable

import torch

from rarememory.classifier.answers import Forgotten
from rarememory.classifier.ensembler import Ensembler
from rarememory.classifier.label_book import LabelBook
from rarememory.classifier.labels import Label, one_spelling
from rarememory.classifier.tuned_keys import untuned
from rarememory.memory import Memory
from rarememory.memory.budgets import layers_of, protecting


def forget_classes(
    memory: Memory, book: LabelBook, ensembler: Ensembler, labels: Iterable[Label]
) -> int:
    """Empty the slots of classes, and never answer with them; return how many slots there were.

    Raises:
        ValueError: a label is not in the book; then nothing is forgotten.
    """
    ids = book.known_ids(labels)
    with untuned(memory):
        count = memory.forget(labels=ids)
    ensembler.forget_classes(ids)
    return count


def forget_examples(memory: Memory, book: LabelBook, refs: list[Label]) -> Forgotten:
    """Empty the slots that have any of these refs.

    Raises:
        ValueError: a ref is not in the book; then nothing is forgotten.
    """
    slots_by_ref = book.slots_by_ref()
    wanted = {one_spelling(ref): ref for ref in refs}
    for spelt, ref in wanted.items():
        if spelt not in slots_by_ref:
            raise ValueError(f"no remembered example has the ref {ref!r}")
    slots = sorted({slot for spelt in wanted for slot in slots_by_ref[spelt]})
    of_slots = [ref for slot in slots for ref in book.refs(slot)]
    beside = [ref for ref in of_slots if one_spelling(ref) not in wanted]
    with untuned(memory):
        count = memory.forget(slots=slots)
    return Forgotten(count, beside)


def resize(memory: Memory, book: LabelBook, memory_size: int) -> list[Label]:
    """Change the number of slots, and return the labels that no slot has any more."""
    numbers = memory.values.unique()
    book.move_refs(memory.resize(memory_size).tolist())
    lost = numbers[~torch.isin(numbers, memory.values)]
    return [book.label(number) for number in lost.tolist() if number in book.numbers()]


def protected_labels(memory: Memory, book: LabelBook) -> list[Label]:
    """The classes that are protected and known."""
    ids = layers_of(memory.update).protected
    return [book.label(number) for number in ids if number in book.numbers()]


def protect(memory: Memory, book: LabelBook, labels: Iterable[Label]) -> None:
    """Never give up slots of these classes for rows of others.

    Raises:
        ValueError: a label is not in the book; then nothing is changed.
    """
    memory.require_writable("protect")
    _set_protected(memory, _protected(memory) | {*book.known_ids(labels)})


def unprotect(memory: Memory, book: LabelBook, labels: Iterable[Label]) -> None:
    """Treat these classes as all others again; as `protect`."""
    memory.require_writable("unprotect")
    _set_protected(memory, _protected(memory) - {*book.known_ids(labels)})


def _protected(memory: Memory) -> set[int]:
    return {*layers_of(memory.update).protected}


def _set_protected(memory: Memory, ids: set[int]) -> None:
    memory.update = protecting(memory.update, ids)
