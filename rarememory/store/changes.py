"""What a change did, as the bytes that a store keeps and every copy of the memory takes."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from safetensors.torch import load
from torch import Tensor

from rarememory.base.tensor_files import encoded

Rows = Mapping[str, Shaped[Tensor, "..."]]
"""Entries of slots, for each per-slot buffer by its name."""


class SlotRow(NamedTuple):
    """A slot as it is stored: the bytes of its buffers and its refs in JSON; None where empty."""

    slot: int
    body: bytes | None
    refs: str | None


class Counts(NamedTuple):
    """What every change counts: the writes so far, and the integer of the next new label."""

    clock: int
    next_id: int


class Change(NamedTuple):
    """The slots, parts and facts that are others after a change.

    Attributes:
        slots: that were changed; all that hold something, if `whole`.
        parts: labels and tensors by name, as bytes; None for what is no more.
        counts: after the change.
        text: everything else, which is small and seldom changes: see `facts_of`.
        whole: whether nothing of before stays.
    """

    slots: Sequence[SlotRow]
    parts: Mapping[str, bytes | None]
    counts: Counts
    text: str
    whole: bool = False


def text_of(facts: Mapping[str, Any]) -> str:
    """Facts in JSON: equal ones give equal texts."""
    return json.dumps(facts, sort_keys=True)


@lru_cache(64)
def facts_of(text: str) -> Mapping[str, Any]:
    """What `text_of` was given; it belongs to all who ask, and nobody may change it."""
    facts: dict[str, Any] = json.loads(text)
    return facts


def slot_rows(slots: list[int], rows: Rows, refs: Sequence[Sequence[Any]]) -> list[SlotRow]:
    """Slots as they are stored, from what each buffer holds there.

    Args:
        slots: their numbers.
        rows: with an entry for each of the slots.
        refs: of each of them, in JSON.
    """
    table = _bytes_of(rows)
    there = (rows["values"] >= 0).tolist()
    return [
        SlotRow(slot, row.tobytes(), json.dumps(some) if some else None)
        if full
        else SlotRow(slot, None, None)
        for slot, full, row, some in zip(slots, there, table, refs, strict=True)
    ]


def slots_of(stored: Sequence[SlotRow], device: torch.device) -> Int64[Tensor, " slots"]:
    """The numbers of slots that were stored."""
    # Of a list, torch makes a tensor in three times the time.
    return torch.from_numpy(np.array([row.slot for row in stored], dtype=np.int64)).to(device)


def rows_of_slots(
    stored: Sequence[SlotRow], empty: Rows, device: torch.device
) -> dict[str, Tensor]:
    """What each buffer holds in slots that were stored; the inverse of `slot_rows`.

    Args:
        stored: some slots.
        empty: what each buffer holds in one empty slot.
        device: of the memory.

    Raises:
        ValueError: a slot has more or fewer bytes than the buffers.
    """
    full = all(row.body is not None for row in stored)
    nothing = b"" if full else _bytes_of(empty).tobytes()
    bodies = [nothing if row.body is None else row.body for row in stored]
    widths = {name: part.numel() * part.element_size() for name, part in empty.items()}
    width = sum(widths.values())
    if any(len(body) != width for body in bodies):
        raise ValueError(f"the store has slots of another width than {width} bytes: it is damaged")
    table = np.frombuffer(b"".join(bodies), dtype=np.uint8).reshape(len(stored), width)
    parts, begin = {}, 0
    for name, like in empty.items():
        end = begin + widths[name]
        # A copy, for torch wants bytes that lie together and may be written.
        flat = torch.from_numpy(table[:, begin:end].copy().reshape(-1))
        part = flat.view(like.dtype).view(len(stored), *like.shape[1:])
        parts[name] = part.to(device)
        begin = end
    return parts


def _bytes_of(rows: Rows) -> np.ndarray:
    """The bytes of all buffers side by side, a row for each slot."""
    parts = []
    for rows_of_one in rows.values():
        flat = rows_of_one.detach().cpu().reshape(-1).view(torch.uint8)
        width = prod(rows_of_one.shape[1:]) * rows_of_one.element_size()
        parts.append(flat.numpy().reshape(len(rows_of_one), width))
    return np.concatenate(parts, axis=1)


def tensor_bytes(tensor: Shaped[Tensor, "..."]) -> bytes:
    """A tensor as bytes, with its dtype and shape."""
    return encoded({"tensor": tensor}, {})


def tensor_of(stored: bytes) -> Shaped[Tensor, "..."]:
    """The tensor that `tensor_bytes` was given."""
    return load(stored)["tensor"]
