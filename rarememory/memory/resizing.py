"""A memory with another number of slots: resized, or loaded from a checkpoint of another size."""

from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from rarememory.base.state import EMPTY, MemoryState


def resized(state: MemoryState, memory_size: int) -> tuple[MemoryState, Int64[Tensor, " slots"]]:
    """A copy of the state with another number of slots, and the old slot of every new one.

    With more slots each stays where it is; with fewer the youngest are kept (of equal ages the
    lower slot), moved to the front in their old order. EMPTY is the old slot of an empty one.
    """
    slots = torch.arange(len(state.values), device=state.values.device)
    if memory_size < len(slots):
        slots = state.occupied.nonzero().squeeze(1)
        by_age = state.ages[slots].argsort(stable=True)
        slots = slots[by_age[:memory_size]].sort().values
    old_slots = slots.new_full((memory_size,), EMPTY)
    old_slots[: len(slots)] = slots
    there = old_slots != EMPTY
    keys = state.keys[old_slots].masked_fill(~there.unsqueeze(1), 0.0)
    values = state.values[old_slots].masked_fill(~there, EMPTY)
    written = state.written[old_slots].masked_fill(~there, 0)
    old_slots = old_slots.masked_fill(values == EMPTY, EMPTY)
    return MemoryState(keys, values, written, state.clock.clone(), state.seed.clone()), old_slots


@torch.no_grad()
def copy_into(mine: MemoryState, theirs: MemoryState) -> None:
    """Copy a state into another, in place even where the shape changes: others may hold it."""
    for buffer, wanted in zip(mine, theirs, strict=True):
        if buffer.shape != wanted.shape:
            # Not `resize_`: it fails once NumPy, and through it Faiss, has looked at the keys.
            buffer.data = torch.empty_like(wanted, dtype=buffer.dtype, device=buffer.device)
        buffer.copy_(wanted)


def resize_checkpoint(
    state_dict: dict[str, Any], prefix: str, mine: MemoryState, *, projection: bool
) -> None:
    """Resize, in the state_dict, the memory under `prefix` to as many slots as `mine` has.

    A state_dict without any of the memory is left for torch to complain of.

    Raises:
        ValueError: a part is missing, or the keys have another width than mine. Torch would load
            what fits and leave the rest: a memory is loaded whole or not at all.
    """
    names = [*MemoryState._fields, *(["projection.weight"] if projection else [])]
    missing = [name for name in names if prefix + name not in state_dict]
    if len(missing) == len(names):
        return
    if missing:
        raise ValueError(f"the checkpoint's memory has no {' and no '.join(missing)}")
    theirs = MemoryState(*(state_dict[prefix + name] for name in MemoryState._fields))
    width, key_dim = theirs.keys.shape[1], mine.keys.shape[1]
    if width != key_dim:
        raise ValueError(f"the checkpoint's keys have width {width}, and this memory's {key_dim}")
    if len(theirs.values) != len(mine.values):
        state, _ = resized(theirs, len(mine.values))
        state_dict.update({prefix + name: part for name, part in state._asdict().items()})
