"""Merging: which slots of two memories are kept in one, and where those of the other one go."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from rarememory.base.state import EMPTY, MemoryState
from rarememory.memory.budgets import Layers, PerClass, layers_of
from rarememory.memory.placing import seen_buffer
from rarememory.memory.resizing import by_age
from rarememory.memory.slots import SlotBuffers, state_of
from rarememory.memory.updates import Update


class Places(NamedTuple):
    """Where slots go in a merge.

    Attributes:
        gone: slots of ours that are given up.
        taken: slots of theirs that are kept, ascending.
        slots: of ours that these go to.
    """

    gone: Int64[Tensor, " gone"]
    taken: Int64[Tensor, " taken"]
    slots: Int64[Tensor, " taken"]


def places(ours: MemoryState, theirs: MemoryState, layers: Layers) -> Places:
    """The youngest slots of both that fit; of equal ages ours, then the lower slot.

    Ours stay where they are, and theirs go to the lowest slots that are free, in their order.

    Args:
        ours: what one memory holds.
        theirs: what the other one holds.
        layers: of the policy, which may keep some classes before the others, and say how many slots
            a class may have.
    """
    mine, others = (state.occupied.nonzero().squeeze(1) for state in (ours, theirs))
    values = torch.cat([ours.values[mine], theirs.values[others]])
    ages = torch.cat([ours.ages[mine], theirs.ages[others]])
    order = by_age(values, ages, layers.protected)
    if isinstance(layers.budget, PerClass):
        order = order[_place_in_class(values[order]) < layers.budget.most]
    kept = torch.zeros_like(ages, dtype=torch.bool)
    kept[order[: len(ours.values)]] = True
    gone = mine[~kept[: len(mine)]]
    taken = others[kept[len(mine) :]]
    free = ~ours.occupied
    free[gone] = True
    return Places(gone, taken, free.nonzero().squeeze(1)[: len(taken)])


def _place_in_class(values: Tensor) -> Tensor:
    """How many slots of the same class come before each."""
    by_class = values.argsort(stable=True)
    firsts = torch.searchsorted(values[by_class], values[by_class])
    places = torch.empty_like(values)
    places[by_class] = torch.arange(len(values), device=values.device) - firsts
    return places


def check_alike(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Refuse memories that do not keep the same of each slot.

    Raises:
        ValueError: one has a buffer that the other has not, or of another width.
    """
    for name in sorted(ours.keys() ^ theirs.keys()):
        has, lacks = ("this", "the other") if name in ours else ("the other", "this")
        raise ValueError(f"{has} memory keeps {name} of each slot, and {lacks} one does not")
    for name, buffer in ours.items():
        if buffer.shape[1:] != theirs[name].shape[1:]:
            here, there = (list(part.shape[1:]) for part in (buffer, theirs[name]))
            raise ValueError(f"{name} have width {here} in this memory, and {there} in the other")


def check_mergeable(
    update: Update, projection: nn.Linear | None, theirs: Mapping[str, Tensor]
) -> None:
    """Refuse a merge under this policy, or of keys of another projection.

    Raises:
        ValueError: the policy goes by rows that are gone, or the keys do not fit.
    """
    ours = None if projection is None else projection.weight
    weight = theirs.get("projection.weight")
    if (ours is None) != (weight is None) or not (
        ours is None or weight is None or torch.equal(ours, weight)
    ):
        raise ValueError("the memories project queries differently, so their keys do not fit")
    if seen_buffer(layers_of(update)) is not None:
        raise ValueError(
            f"{update} goes by rows that are not in memory any more, so it cannot be merged: learn "
            "what the other one was taught"
        )


def put_values(theirs: dict[str, Tensor], values: Int64[Tensor, " slots"]) -> None:
    """Let their slots have these values in place of their own; an empty slot stays empty.

    Raises:
        ValueError: there is not one for each slot.
    """
    own = theirs["values"]
    if values.shape != own.shape:
        raise ValueError(f"values of shape {list(values.shape)} for {len(own)} slots")
    theirs["values"] = values.to(own).where(own != EMPTY, EMPTY)


def align(ours: Mapping[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Let both count writes, and reads, from one beginning: what is kept is how long ago each was.

    Ours are changed in place, and theirs are replaced.
    """
    for number, stamps in (("clock", "written"), ("reads", "used")):
        if number in theirs:
            mine, now = ours[number], theirs[number]
            later = torch.maximum(mine, now)
            ours[stamps].add_(later - mine)
            theirs[stamps], theirs[number] = theirs[stamps] + (later - now), later
            mine.copy_(later)


def take_over(
    ours: SlotBuffers,
    state: MemoryState,
    theirs: Mapping[str, Tensor],
    layers: Layers,
    holders: Int64[Tensor, " slots"] | None,
) -> tuple[Int64[Tensor, " slots"], Int64[Tensor, " changed"]]:
    """Put into our slots, in place, what of theirs is kept.

    Args:
        ours: the buffers of our slots.
        state: ours.
        theirs: their buffers, aligned with ours.
        layers: of our policy.
        holders: of each of their slots the one that holds it, as `Memory.joined` says.

    Returns:
        Of each of their slots the one of ours that it went to, EMPTY where there is none; and those
        of ours that may have changed.
    """
    found = places(state, state_of(theirs), layers)
    gone = torch.zeros_like(state.values, dtype=torch.bool).index_fill_(0, found.gone, True)
    ours.empty(gone)
    for name, buffer in ours.tensors.items():
        buffer[found.slots] = theirs[name][found.taken].to(buffer.dtype)
    slots = found.taken.new_full((len(theirs["values"]),), EMPTY)
    slots[found.taken] = found.slots
    if holders is None:
        return slots, torch.cat([found.gone, found.slots])
    everywhere = torch.arange(len(gone), device=gone.device)
    return torch.cat([everywhere.masked_fill(gone, EMPTY), slots])[holders], everywhere
