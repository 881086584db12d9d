"""What learning does, foreseen: without a draft, and moved to a newer state without a decision.

A policy that gives each row the oldest slot writes the same rows whatever the memory holds. What
others have learnt meanwhile says only where they go, when that was, what they hit, and which labels
they overwrite. Labels that come or go are left to a draft.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rarememory.base.state import EMPTY
from rarememory.classifier.answers import Learnt
from rarememory.classifier.beside_keys import put_into_rows
from rarememory.classifier.label_book import LabelBook
from rarememory.classifier.labels import label_to_json
from rarememory.classifier.learning import LabelledFeatures, checked_beside
from rarememory.memory import Memory
from rarememory.memory.foreseeing import Foreseen, foresee, foresee_again
from rarememory.store.acts import Decision
from rarememory.store.changes import Change, Counts, Rows, SlotRow, slot_rows

_LOOKED_AT = (2**8, 2**14)
"""Of more slots so many are looked at, and then so many, to see that a label has others."""


def foreseen(
    memory: Memory, book: LabelBook, examples: LabelledFeatures, text: str, version: int
) -> Decision | None:
    """What it does to learn examples; None where only a draft tells.

    Args:
        memory: that learns.
        book: of its labels.
        examples: each in a row of its own.
        text: the facts afterwards.
        version: of the state of the memory.

    Raises:
        ValueError: features are zero or not finite.
    """
    numbers = book.ids(examples.labels)
    if not numbers or max(numbers) >= book.next_id:
        return None
    beside = checked_beside(examples)
    labels = torch.tensor(numbers, device=examples.features.device)
    found = foresee(memory, examples.features, labels)
    if found is None:
        return None
    put_into_rows(memory, found.rows, found.places, beside)
    refs: list[list[Any]] = [[] for _ in numbers]
    for place, ref in zip(found.places.tolist(), examples.refs, strict=True):
        if ref is not None:
            refs[place] = [label_to_json(ref)]
    rows = slot_rows(found.order.tolist(), found.rows, refs)
    return _decided(memory, book, found, rows, text, version)


def foreseen_again(
    memory: Memory, book: LabelBook, decision: Decision, changed: Tensor, version: int
) -> Decision | None:
    """What a decision that was foreseen is on a newer state, which has the same labels.

    Args:
        memory: in that state.
        book: of its labels.
        decision: on an older one.
        changed: the slots that are others.
        version: of the newer state.
    """
    if decision.foreseen is None or decision.change.counts.next_id != book.next_id:
        return None
    found = foresee_again(memory, decision.foreseen, changed)
    rows = _again(decision.change.slots, found)
    return _decided(memory, book, found, rows, decision.change.text, version)


def _decided(
    memory: Memory,
    book: LabelBook,
    found: Foreseen,
    rows: list[SlotRow],
    text: str,
    version: int,
) -> Decision | None:
    overwritten = [number for number in found.write.overwritten.tolist() if number != EMPTY]
    if _may_be_lost(overwritten, found, memory.values):
        return None
    lost = [book.label(number) for number in overwritten]
    result = Learnt(found.write.slots, found.write.hits, lost)
    change = Change(rows, {}, Counts(int(memory.clock) + 1, book.next_id), text)
    return Decision(result, change, version, found.rows, found)


def _again(stored: Sequence[SlotRow], found: Foreseen) -> list[SlotRow]:
    """The same rows, in their new slots and with the number of their write."""
    begin, stamps = _place_of("written", found.rows), found.rows["written"]
    stamp = int(stamps[0]).to_bytes(stamps.element_size(), sys.byteorder)
    end = begin + len(stamp)
    bodies = [row.body or b"" for row in stored]
    return [
        SlotRow(slot, body[:begin] + stamp + body[end:], row.refs)
        for slot, body, row in zip(found.order.tolist(), bodies, stored, strict=True)
    ]


def _place_of(buffer: str, rows: Rows) -> int:
    """Where a buffer begins in the bytes of a slot."""
    begin = 0
    for name, part in rows.items():
        if name == buffer:
            break
        begin += part.numel() // len(part) * part.element_size()
    return begin


def _may_be_lost(numbers: list[int], found: Foreseen, values: Tensor) -> bool:
    """Whether perhaps no slot has one of these labels any more, which are overwritten."""
    gone = {*numbers} - {*found.labels.tolist()}
    for most in _LOOKED_AT:
        if gone:
            gone = _not_seen(gone, found.order.tolist(), values, len(values) // most + 1)
    return bool(gone)


def _not_seen(numbers: set[int], taken: list[int], values: Tensor, step: int) -> set[int]:
    """Those of the labels that no slot has, of those looked at and not taken."""
    seen = values[::step].clone()
    seen[[slot // step for slot in taken if slot % step == 0]] = EMPTY
    return numbers - {*seen.tolist()}
