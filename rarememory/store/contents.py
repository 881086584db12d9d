"""What a store has of a memory: its labels, weights and slots, told as they are and taken again."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rarememory.classifier.checkpoints import own_tensors, part_of
from rarememory.classifier.ensembler import Ensembler
from rarememory.classifier.label_book import LabelBook
from rarememory.classifier.labels import Label, label_from_json, label_to_json, python_label
from rarememory.classifier.memory_settings import memory_settings
from rarememory.memory import Memory
from rarememory.memory.budgets import Protected
from rarememory.memory.drafts import Draft
from rarememory.store.changes import (
    Change,
    Rows,
    SlotRow,
    facts_of,
    rows_of_slots,
    slot_rows,
    slots_of,
    tensor_bytes,
    tensor_of,
)

LABEL = "label/"

Contents = tuple[list[SlotRow], dict[str, bytes | None]]
"""Slots and parts, as a `Change` has them."""


class Before(NamedTuple):
    """What is beside the slots before a change.

    Attributes:
        book: of the labels, which the change may replace.
        next_id: of that book.
        weights: by name, the buffer and what it held.
    """

    book: LabelBook
    next_id: int
    weights: dict[str, tuple[Tensor, Tensor]]


def before(ensembler: Ensembler, book: LabelBook) -> Before:
    """What is beside the slots now."""
    weights = {name: (part, part.clone()) for name, part in ensembler.named_buffers()}
    return Before(book, book.next_id, weights)


# What is stored


def changed_contents(draft: Draft, book: LabelBook, before: Before) -> Contents:
    """The slots of a draft, and the labels and weights that are not those of before."""
    parts: dict[str, bytes | None] = {}
    for name, (part, was) in before.weights.items():
        if not torch.equal(part, was):
            parts[f"ensembler.{name}"] = tensor_bytes(part)
    for number, label in _new_labels(book, before):
        parts[f"{LABEL}{number}"] = label
    slots = draft.slots.tolist()
    return slot_rows(slots, draft.rows, _refs(book, slots)), parts


def _new_labels(book: LabelBook, before: Before) -> Iterator[tuple[int, bytes | None]]:
    """Integers and labels of new ones, and integers of those that are no more."""
    if book is not before.book:
        for number in before.book.numbers() - book.numbers():
            if number < before.next_id:
                yield number, None
    for number in range(before.next_id, book.next_id):
        if number in book.numbers():
            yield number, _label_bytes(book.label(number))


def whole_contents(memory: Memory, ensembler: Ensembler, book: LabelBook) -> Contents:
    """All slots that hold something, all labels, weights and other tensors."""
    stored = dict(memory.state_dict())
    slots = memory.state.occupied.nonzero().squeeze(1)
    rows = {name: stored.pop(name)[slots] for name in memory.empty_slots(1)}
    parts = {f"{LABEL}{n}": _label_bytes(book.label(n)) for n in book.numbers()}
    tensors = own_tensors(memory, ensembler)
    for name in tensors.keys() - {f"memory.{name}" for name in (*rows, "clock")}:
        parts[name] = tensor_bytes(tensors[name])
    numbers = slots.tolist()
    return slot_rows(numbers, rows, _refs(book, numbers)), {**parts}


def _refs(book: LabelBook, slots: list[int]) -> list[list[Any]]:
    return [[label_to_json(ref) for ref in book.refs(slot)] for slot in slots]


def settings_of(memory: Memory) -> dict[str, Any]:
    """What is fixed while a store is used, but for the size."""
    settings = memory_settings(memory)
    # Which classes are protected changes, and stands with the labels.
    if isinstance(memory.update, Protected):
        settings["update"] = settings["update"]["fields"]["update"]
    return {**settings, "key_dtype": str(memory.keys.dtype)}


# Taking what is stored


def check_given(given: Mapping[str, Any], change: Change) -> None:
    """Refuse options of a worker that are not those of the memory that is in the store, all of it.

    Who gives a memory of their own gives no size, and asks it as it is asked in the store.

    Raises:
        ValueError: the size, the reader, `unknown` or the name of a class is another.
    """
    facts, parts = facts_of(change.text), change.parts
    stored = {
        "memory_size": facts["settings"]["memory"]["memory_size"],
        "unknown": label_from_json(facts["unknown"]),
    }
    if given.get("memory") is None:
        stored["reader"] = facts["beside"]["reader"]
    for name, own in stored.items():
        if given.get(name, own) != own:
            resized = f", and resize({given[name]}) it" if name == "memory_size" else ""
            raise ValueError(
                f"the store was made with {name}={own!r}, and {name}={given[name]!r} was given: "
                f"open it without that{resized}"
            )
    labels = {int(n): json.loads(text)[0] for n, text in _labels(parts) if text}
    host_ids = tensor_of(parts["ensembler.host_ids"] or b"").tolist()
    for place, (number, label) in enumerate(
        zip(host_ids, given.get("classes") or (), strict=False)
    ):
        # A class that was forgotten has no name any more.
        if number in labels and label_from_json(labels[number]) != python_label(label):
            raise ValueError(
                f"output {place} of the model is called {label_from_json(labels[number])!r} in the "
                f"store, and {label!r} in classes=: open it without that"
            )


def put_change(
    change: Change, rows: Rows, memory: Memory, ensembler: Ensembler, book: LabelBook
) -> None:
    """Take a change that is not whole.

    Args:
        change: to take.
        rows: what the buffers of the memory hold in its slots.
        memory: to put them into.
        ensembler: to put weights into.
        book: to put labels and refs into.
    """
    slots = slots_of(change.slots, memory.values.device)
    labels: dict[int, Any] = {}
    memory.put_slots(slots, rows, change.counts.clock)
    # Most changes are of slots alone.
    if change.parts:
        labels = {int(n): json.loads(text or b"null") for n, text in _labels(change.parts)}
        for name, stored in part_of(change.parts, "ensembler.").items():
            ensembler.get_buffer(name).copy_(tensor_of(stored))
    for row in change.slots:
        refs = map(label_from_json, json.loads(row.refs)) if row.refs else ()
        book.put_refs(row.slot, tuple(refs))
    book.put_labels(labels, change.counts.next_id)


def tensors_of(change: Change, memory: Memory, size: int) -> tuple[dict[str, Tensor], Rows]:
    """The tensors of a whole change: those of a memory of this size, and the weights beside it."""
    tensors = {
        name: tensor_of(part)
        for name, part in change.parts.items()
        if part is not None and not name.startswith(LABEL)
    }
    stored = [row for row in change.slots if row.body is not None]
    slots = slots_of(stored, memory.values.device)
    found = {**memory.empty_slots(size), **part_of(tensors, "memory.")}
    for name, rows in rows_of_slots(stored, memory.empty_slots(1), slots.device).items():
        found[name][slots] = rows
    found["clock"] = torch.tensor(change.counts.clock)
    return found, part_of(tensors, "ensembler.")


def book_of(change: Change) -> dict[str, Any]:
    """The label book of a whole change, in JSON."""
    labels = [[int(n), json.loads(text)[0]] for n, text in _labels(change.parts) if text]
    refs = [[row.slot, json.loads(row.refs)] for row in change.slots if row.body and row.refs]
    return {"names": {"next": change.counts.next_id, "labels": labels}, "refs": refs}


def _labels(parts: Mapping[str, bytes | None]) -> list[tuple[int, bytes | None]]:
    """Integers of labels, ascending, and the labels in JSON; None for one that is no more."""
    named = part_of(parts, LABEL)
    return sorted((int(number), text) for number, text in named.items())


def _label_bytes(label: Label) -> bytes:
    # In a list, for the label None is null itself.
    return json.dumps([label_to_json(label)]).encode()
