"""Per-slot buffers: emptied, moved to other slots, and loaded from a checkpoint of another size.

They come as a mapping of names to tensors with one entry for each slot, and a mapping of the same
names to what an empty slot holds.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from rarememory.base.state import EMPTY, MemoryState

Fills = Mapping[str, int | float]


def numbers_of(memory: nn.Module) -> list[str]:
    """Names of the buffers of a memory that are one number, and not one for each slot."""
    return [name for name in ("clock", "seed", "reads") if hasattr(memory, name)]


def empty(buffers: Mapping[str, Tensor], fills: Fills, gone: Bool[Tensor, " slots"]) -> None:
    """Empty these slots, in place."""
    for name, buffer in buffers.items():
        buffer.masked_fill_(_along(gone, buffer), fills[name])


def kept_slots(
    state: MemoryState, memory_size: int, protected: tuple[int, ...] = ()
) -> Int64[Tensor, " memory_size"]:
    """The old slot of every slot of a memory of this size; EMPTY for an empty one.

    With more slots each stays where it is; with fewer the youngest are kept (of equal ages the
    lower slot; of protected classes before the others), moved to the front in their old order.
    """
    slots = torch.arange(len(state.values), device=state.values.device)
    if memory_size < len(slots):
        slots = state.occupied.nonzero().squeeze(1)
        order = by_age(state.values[slots], state.ages[slots], protected)
        slots = slots[order[:memory_size]].sort().values
    old_slots = slots.new_full((memory_size,), EMPTY)
    old_slots[: len(slots)] = slots.where(state.occupied[slots], EMPTY)
    return old_slots


def by_age(
    values: Int64[Tensor, " slots"], ages: Int64[Tensor, " slots"], protected: tuple[int, ...]
) -> Int64[Tensor, " slots"]:
    """The order of slots, the youngest first, after those of protected classes."""
    order = ages.argsort(stable=True)
    others = ~torch.isin(values[order], values.new_tensor(protected))
    return order[others.to(torch.uint8).argsort(stable=True)]


def gather(
    buffers: Mapping[str, Tensor], fills: Fills, old_slots: Int64[Tensor, " slots"]
) -> dict[str, Tensor]:
    """Copies of the buffers with the entries of these old slots; EMPTY gives an empty slot."""
    gone = old_slots == EMPTY
    return {
        name: buffer[old_slots].masked_fill(_along(gone, buffer), fills[name])
        for name, buffer in buffers.items()
    }


@torch.no_grad()
def copy_into(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Copy into our buffers, in place even where the shape changes: others may refer to them."""
    for name, wanted in theirs.items():
        buffer = mine[name]
        if buffer.shape != wanted.shape:
            # Not `resize_`: it fails once NumPy, and through it Faiss, has looked at the keys.
            buffer.data = torch.empty_like(wanted, dtype=buffer.dtype, device=buffer.device)
        buffer.copy_(wanted)


def resize_checkpoint(
    state_dict: dict[str, Any],
    prefix: str,
    buffers: Mapping[str, Tensor],
    fills: Fills,
    others: list[str],
    check: Callable[[Mapping[str, Tensor]], None],
    kept: Callable[[MemoryState, int], Tensor],
) -> None:
    """Resize, in the state_dict, the memory under `prefix` to as many slots as our buffers have.

    A state_dict without any part of the memory is not changed: torch reports what is missing. The
    stored tensors go through `check` first, which may refuse them; `kept` is the rule of resizing.

    Raises:
        ValueError: a buffer or one of the `others` is missing, or a buffer has another width than
            ours, or `check` refuses them. Torch would load the rest: a memory is loaded whole or
            not at all.
    """
    names = [*buffers, *others]
    missing = [name for name in names if prefix + name not in state_dict]
    if len(missing) == len(names):
        return
    if missing:
        raise ValueError(f"the checkpoint's memory has no {' and no '.join(missing)}")
    stored = {name: state_dict[prefix + name] for name in names}
    check(stored)
    for name, buffer in buffers.items():
        if stored[name].shape[1:] != buffer.shape[1:]:
            width, wanted = (" x ".join(map(str, it.shape[1:])) for it in (stored[name], buffer))
            raise ValueError(
                f"the checkpoint's {name} have width {width}, and this memory's {wanted}"
            )
        if stored[name].shape[:1] != stored["values"].shape:
            raise ValueError(f"the checkpoint's {name} are not of as many slots as its values")
    memory_size = len(buffers["values"])
    if len(stored["values"]) != memory_size:
        state = MemoryState(*(stored[name] for name in MemoryState._fields))
        old_slots = kept(state, memory_size)
        resized = gather({name: stored[name] for name in buffers}, fills, old_slots)
        state_dict.update({prefix + name: part for name, part in resized.items()})


def _along(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(-1, *[1] * (like.dim() - 1))
