"""Resizing: which slots a memory of another size keeps."""

import torch
from jaxtyping import Int64
from torch import Tensor

from rarememory.base.state import EMPTY, MemoryState
from rarememory.memory.budgets import Layers, Reservoir


def kept_slots(
    state: MemoryState, memory_size: int, layers: Layers
) -> Int64[Tensor, " memory_size"]:
    """The old slot of every slot of a memory of this size; EMPTY for an empty one.

    With more slots each stays where it is; with fewer the youngest are kept (of equal ages the
    lower slot; of protected classes before the others), moved to the front in their old order.

    Raises:
        ValueError: it is a sample of a whole stream, which has one size.
    """
    if layers.budget == Reservoir() and memory_size != len(state.values):
        raise ValueError(
            f"a sample in {len(state.values)} slots cannot become one in {memory_size}: which "
            "rows it would hold is not known"
        )
    slots = torch.arange(len(state.values), device=state.values.device)
    if memory_size < len(slots):
        slots = state.occupied.nonzero().squeeze(1)
        order = by_age(state.values[slots], state.ages[slots], layers.protected)
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


def check_room(
    values: Int64[Tensor, " slots"], memory_size: int, protected: tuple[int, ...]
) -> None:
    """Refuse a size at which protected classes would lose a slot.

    Raises:
        ValueError: they have more slots than that.
    """
    count = int(torch.isin(values, values.new_tensor(protected)).sum())
    if count > memory_size:
        raise ValueError(
            f"{count} slots are of protected classes: forget some, or take a memory_size "
            f"of at least {count}"
        )
