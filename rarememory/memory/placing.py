"""Which rows of a write get which slots, where a policy looks at the classes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor

from rarememory.base.state import EMPTY, MemoryState
from rarememory.memory.budgets import Layers, PerClass, Reservoir
from rarememory.memory.selections import Selection
from rarememory.memory.updates import slot_noise

SEEN = {"class_sums": torch.float32, "offered": torch.int64}
"""Buffers in which each slot of a class has what was seen of the class."""

_CLASS_STEP = 0xD1B54A32D192ED03 - 2**64
"""Between the seeds of the sequences of two classes: an odd number, so that all differ."""


def seen_buffer(layers: Layers) -> str | None:
    """The name of the buffer that the policy needs, if it does."""
    if isinstance(layers.budget, Reservoir):
        return "offered"
    return None if layers.budget is None or layers.budget.selection is None else "class_sums"


@dataclass
class Placing:
    """What becomes of the rows of a write.

    Attributes:
        own: the slot of its own class that a row takes.
        anywhere: rows that take any slot.
        seen: what was seen of a class, afterwards; EMPTY stands for all of them.
    """

    own: dict[int, int] = field(default_factory=dict)
    anywhere: list[int] = field(default_factory=list)
    seen: dict[int, Shaped[Tensor, "..."]] = field(default_factory=dict)


@dataclass(frozen=True)
class Class:
    """A class that is written: the slots that it may replace, how many it has, its new rows."""

    label: int
    slots: Int64[Tensor, " slots"]
    count: int
    rows: list[int]


def placed(
    layers: Layers,
    state: MemoryState,
    queries: Shaped[Tensor, "batch key_dim"],
    labels: Int64[Tensor, " batch"],
    rows: list[int],
    averaged: Int64[Tensor, " averaged"],
    seen: Shaped[Tensor, "slots ..."] | None,
    priority: Callable[[], Tensor],
) -> Placing:
    """Let each class decide which of its slots go, and which of its rows take any slot.

    Args:
        layers: of the policy.
        state: before the write.
        queries: of unit length.
        labels: of the queries.
        rows: that are to take a slot, in the order of a write.
        averaged: slots that others are averaged into, which stay.
        seen: the buffer of what was seen of each class.
        priority: gives the eviction priority of each slot.
    """
    found, budget = Placing(), layers.budget
    if budget is None:
        found.anywhere = rows
        return found
    for one in _classes(budget, state, labels, rows, averaged):
        if isinstance(budget, Reservoir):
            most = len(state.values) if budget.per_class is None else budget.per_class
            assert seen is not None
            _draw(found, one, most, state.seed, seen)
        elif budget.selection is not None:
            assert seen is not None
            _select(found, one, budget.selection, state.keys, queries, seen)
        else:
            _replace(found, one, budget.most, priority)
    return found


def slots_of(state: MemoryState, label: int) -> Bool[Tensor, " slots"]:
    """The slots of a class; all that are occupied for EMPTY."""
    return state.occupied if label == EMPTY else state.values == label


def _classes(
    budget: PerClass | Reservoir,
    state: MemoryState,
    labels: Tensor,
    rows: list[int],
    averaged: Tensor,
) -> Iterator[Class]:
    whole = isinstance(budget, Reservoir) and budget.per_class is None
    of_row = [EMPTY] * len(rows) if whole else labels[rows].tolist()
    of_class: dict[int, list[int]] = {}
    for row, label in zip(rows, of_row, strict=True):
        of_class.setdefault(label, []).append(row)
    for label, its in of_class.items():
        slots = slots_of(state, label).nonzero().squeeze(1)
        yield Class(label, slots[~torch.isin(slots, averaged)], len(slots), its)


def _replace(found: Placing, one: Class, most: int, priority: Callable[[], Tensor]) -> None:
    """New rows replace what the policy gives up first among the slots of a full class."""
    room = max(0, most - one.count)
    found.anywhere += one.rows[:room]
    if one.rows[room:] and len(one.slots):
        order = priority()[one.slots].nan_to_num().argsort(descending=True, stable=True)
        found.own |= dict(zip(one.rows[room:], one.slots[order].tolist(), strict=False))


def _select(
    found: Placing, one: Class, selection: Selection, keys: Tensor, queries: Tensor, seen: Tensor
) -> None:
    """Of the slots of the class and its new rows those are kept that the selection takes."""
    new = queries[one.rows]
    centre = seen[one.slots[:1]].double().sum(0) + new.double().sum(0)
    found.seen[one.label] = centre
    both = torch.cat([keys[one.slots].double(), new.double()])
    kept = {*selection(both, centre).tolist()} if len(both) > selection.count else range(len(both))
    gone = [slot for place, slot in enumerate(one.slots.tolist()) if place not in kept]
    stored = [row for place, row in enumerate(one.rows, one.count) if place in kept]
    found.own |= dict(zip(stored, gone, strict=False))
    found.anywhere += stored[len(gone) :]


def _draw(found: Placing, one: Class, most: int, seed: Tensor, seen: Tensor) -> None:
    """Vitter's algorithm R, row by row."""
    slots = one.slots.tolist()
    before = max(len(slots), *seen[one.slots].tolist()) if slots else 0
    own_seed = seed + torch.full_like(seed, one.label + 1) * _CLASS_STEP
    draws = slot_noise(own_seed, torch.full_like(seed, before), 1, 0, len(one.rows))
    uniform = ((draws + 1) / 2).tolist()
    holders: list[int | None] = [None] * len(slots)
    for t, row in enumerate(one.rows, before):
        if len(holders) < most:
            holders.append(row)
            slots.append(EMPTY)
        elif (place := int(uniform[t - before] * (t + 1))) < len(holders):
            holders[place] = row
    held = [(row, slot) for row, slot in zip(holders, slots, strict=True) if row is not None]
    found.own |= {row: slot for row, slot in held if slot != EMPTY}
    found.anywhere += [row for row, slot in held if slot == EMPTY]
    found.seen[one.label] = torch.tensor(before + len(one.rows))


def assigned(
    found: Placing,
    layers: Layers,
    state: MemoryState,
    rows: list[int],
    averaged: Int64[Tensor, " averaged"],
    evict: Callable[[int, Tensor], Tensor],
) -> tuple[list[int], list[int]]:
    """The rows that get a slot, in the order of a write, and their slots.

    Args:
        found: what the classes decided.
        layers: of the policy.
        state: before the write.
        rows: in the order of a write.
        averaged: slots that others are averaged into.
        evict: gives so many slots to give up first, none of those to keep.

    Raises:
        ValueError: a row needs a slot, and all others are protected.
    """
    slot_of = dict(found.own)
    takers = {*found.anywhere}
    takers_in_order = [row for row in rows if row in takers]
    if takers_in_order:
        protected = torch.isin(state.values, state.values.new_tensor(layers.protected))
        claimed = state.values.new_tensor([*found.own.values()])
        keep = torch.cat([averaged, claimed, protected.nonzero().squeeze(1)])
        free = [slot for slot in evict(len(takers_in_order), keep).tolist() if slot != EMPTY]
        if layers.protected and len(free) < len(takers_in_order):
            raise ValueError(
                f"{len(takers_in_order)} rows need a slot, and {len(free)} may be given up: the "
                f"others are of the protected classes {[*layers.protected]}, or written to by this "
                "batch; forget some, or resize the memory"
            )
        slot_of |= dict(zip(takers_in_order, free, strict=False))
    stored = [row for row in rows if row in slot_of]
    return stored, [slot_of[row] for row in stored]
