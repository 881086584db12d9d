"""What a change did, as the bytes that a store keeps and every copy of the memory takes."""

import json
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from jaxtyping import Shaped, UInt8
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


class Change(NamedTuple):
    """The slots, parts and facts that are others after a change.

    Attributes:
        slots: that were changed; all that hold something, if `whole`.
        parts: labels and tensors by name, as bytes; None for what is no more.
        facts: everything else, which is small.
        whole: whether nothing of before stays.
    """

    slots: Sequence[SlotRow]
    parts: Mapping[str, bytes | None]
    facts: dict[str, Any]
    whole: bool = False


def slot_rows(slots: list[int], rows: Rows, refs: Sequence[Sequence[Any]]) -> list[SlotRow]:
    """Slots as they are stored, from what each buffer holds there.

    Args:
        slots: their numbers.
        rows: with an entry for each of the slots.
        refs: of each of them, in JSON.
    """
    table = _bytes_of(rows).numpy()
    there = (rows["values"] >= 0).tolist()
    return [
        SlotRow(slot, row.tobytes(), json.dumps(some) if some else None)
        if full
        else SlotRow(slot, None, None)
        for slot, full, row, some in zip(slots, there, table, refs, strict=True)
    ]


def rows_of_slots(stored: Sequence[SlotRow], empty: Rows) -> dict[str, Tensor]:
    """What each buffer holds in slots that were stored; the inverse of `slot_rows`.

    Args:
        stored: some slots.
        empty: what each buffer holds in one empty slot.

    Raises:
        ValueError: a slot has more or fewer bytes than the buffers.
    """
    nothing = _bytes_of(empty).numpy().tobytes()
    bodies = [nothing if row.body is None else row.body for row in stored]
    width = len(nothing)
    if any(len(body) != width for body in bodies):
        raise ValueError(f"the store has slots of another width than {width} bytes: it is damaged")
    joined = bytearray(b"".join(bodies))
    table = torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.zeros(0).byte()
    parts = table.view(len(stored), width).split(
        [part.numel() * part.element_size() for part in empty.values()], dim=1
    )
    dense = torch.contiguous_format
    return {
        name: part.clone(memory_format=dense)
        .view(like.dtype)
        .view(len(stored), *like.shape[1:])
        .to(like.device)
        for (name, like), part in zip(empty.items(), parts, strict=True)
    }


def _bytes_of(rows: Rows) -> UInt8[Tensor, "slots bytes"]:
    """The bytes of all buffers side by side, a row for each slot."""
    columns = [part.detach().cpu().contiguous() for part in rows.values()]
    table = [part.view(len(part), prod(part.shape[1:])).view(torch.uint8) for part in columns]
    return torch.cat(table, dim=1)


def tensor_bytes(tensor: Shaped[Tensor, "..."]) -> bytes:
    """A tensor as bytes, with its dtype and shape."""
    return encoded({"tensor": tensor}, {})


def tensor_of(stored: bytes) -> Shaped[Tensor, "..."]:
    """The tensor that `tensor_bytes` was given."""
    return load(stored)["tensor"]
