"""Per-slot buffers by name: emptied, moved to other slots, copied in place, put back."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from rarememory.base.state import EMPTY, MemoryState

SLOT_BUFFERS: dict[str, int | float] = {"keys": 0, "values": EMPTY, "written": 0}
"""The buffers of every memory with an entry for each slot, by what an empty slot holds."""


class SlotBuffers(NamedTuple):
    """The buffers of a memory that have an entry for each slot.

    Attributes:
        tensors: the buffers themselves, by name.
        fills: what an empty slot holds, by the same names.

    Example:
        >>> slots = SlotBuffers({"values": torch.tensor([7, 8, 9])}, SLOT_BUFFERS)
        >>> slots.empty(torch.tensor([False, True, False]))
        >>> slots.tensors["values"], slots.moved(torch.tensor([2, EMPTY]))
        (tensor([ 7, -1,  9]), {'values': tensor([ 9, -1])})
    """

    tensors: Mapping[str, Tensor]
    fills: Mapping[str, int | float]

    def empty(self, gone: Bool[Tensor, " slots"]) -> None:
        """Empty these slots, in place."""
        for name, buffer in self.tensors.items():
            buffer.masked_fill_(_along(gone, buffer), self.fills[name])

    def moved(self, old_slots: Int64[Tensor, " slots"]) -> dict[str, Tensor]:
        """Copies with the entries of these old slots; EMPTY gives an empty slot."""
        gone = old_slots == EMPTY
        return {
            name: buffer[old_slots].masked_fill(_along(gone, buffer), self.fills[name])
            for name, buffer in self.tensors.items()
        }

    def of_empty(self, count: int) -> dict[str, Tensor]:
        """What so many empty slots hold."""
        return {
            name: torch.full((count, *buffer.shape[1:]), self.fills[name]).to(buffer)
            for name, buffer in self.tensors.items()
        }


def numbers_of(memory: nn.Module) -> dict[str, Tensor]:
    """The buffers of a memory that are one number, and not one for each slot, by name."""
    names = ("clock", "seed", "reads")
    return {name: memory.get_buffer(name) for name in names if hasattr(memory, name)}


def state_of(buffers: Mapping[str, Tensor]) -> MemoryState:
    """The state that a memory with these buffers has."""
    return MemoryState(*(buffers[name] for name in MemoryState._fields))


@torch.no_grad()
def copy_into(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Copy into our buffers, in place even where the shape changes: others may refer to them."""
    for name, wanted in theirs.items():
        buffer = mine[name]
        if buffer.shape != wanted.shape:
            # Not `resize_`: it fails once NumPy, and through it Faiss, has looked at the keys.
            buffer.data = torch.empty_like(wanted, dtype=buffer.dtype, device=buffer.device)
        buffer.copy_(wanted)


@contextmanager
def put_back(buffers: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the buffers hold at the end of the block what they hold now, to the bit."""
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    try:
        yield
    finally:
        copy_into(buffers, before)


def not_half(before: Tensor, now: Tensor) -> Tensor:
    """What a buffer has become; in float32 what it was, where that has become half precision.

    Example:
        >>> lengths = torch.tensor([1e5])
        >>> not_half(lengths, lengths.half()), not_half(lengths, lengths.double()).dtype
        (tensor([100000.]), torch.float64)
    """
    wide = before.is_floating_point() and before.itemsize >= 4
    return before.to(now.device, torch.float32) if wide and now.itemsize < 4 else now


def _along(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(-1, *[1] * (like.dim() - 1))
