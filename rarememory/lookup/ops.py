"""The searches as operators of torch, for compiled and exported programs.

`torch.ops.rarememory.nearest` and `nearest_pair` take the name of a search, since a program cannot
hold an object. Slots have no gradient; scores have that of `torch.ops.rarememory.score`.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rarememory.base.shapes import (
    Among,
    HalfPrecisionKeys,
    Keys,
    Labels,
    Neighbors,
    Occupied,
    Pair,
    Queries,
    Values,
)
from rarememory.base.state import EMPTY, host_may_read
from rarememory.lookup import LOOKUPS, AutoLookup, Lookup, NativeLookup, choose_lookup
from rarememory.lookup.exact import dot

_INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


def nearest(
    lookup: Lookup,
    queries: Queries,
    keys: Keys,
    occupied: Occupied,
    k: int,
    half_keys: HalfPrecisionKeys | None = None,
    among: Among | None = None,
) -> Neighbors:
    """The k nearest slots by this lookup, in any order, [batch, min(k, slots)], filled with EMPTY.

    Args:
        lookup: the search.
        queries: of unit length; one that is not finite finds nothing.
        keys: of the memory.
        occupied: slots that hold something.
        k: neighbours.
        half_keys: the keys in float16, for a search that reads them.
        among: slots that may be found, occupied ones all of them; of all queries or of each.

    Raises:
        ValueError: why the lookup does not support the call.
    """
    if _use_operator(lookup):
        slots: Tensor = _nearest(queries, keys, occupied, k, lookup.name, half_keys, among)
        return slots
    return _search(lookup, queries, keys, occupied, k, half_keys, among)


def native_search(lookup: Lookup, queries: Queries, keys: Keys, k: int) -> NativeLookup | None:
    """The search in C++, if this lookup would use it now, and None where a program is compiled.

    Raises:
        ValueError: why the lookup does not support the call.
    """
    if torch.compiler.is_compiling() or not isinstance(lookup, AutoLookup | NativeLookup):
        return None
    search = _supporting(lookup, queries, keys, k)
    return search if type(search) is NativeLookup else None


def nearest_pair(
    lookup: Lookup,
    queries: Queries,
    keys: Keys,
    values: Values,
    labels: Labels,
    half_keys: HalfPrecisionKeys | None = None,
) -> Pair:
    """The nearest slot with the label, and the nearest occupied slot with another, by this lookup.

    Raises:
        ValueError: why the lookup does not support the call.
    """
    if _use_operator(lookup):
        positive, negative = _nearest_pair(queries, keys, values, labels, lookup.name, half_keys)
        return positive, negative
    return _search_pair(lookup, queries, keys, values, labels, half_keys)


@torch.library.custom_op("rarememory::nearest", mutates_args=())
def _nearest(
    queries: Tensor,
    keys: Tensor,
    occupied: Tensor,
    k: int,
    lookup: str,
    half_keys: Tensor | None,
    among: Tensor | None = None,
) -> Tensor:
    return _search(_lookup_named(lookup), queries, keys, occupied, k, half_keys, among)


@_nearest.register_fake
def _(queries: Tensor, keys: Tensor, occupied: Tensor, k: int, *_: Any) -> Tensor:
    return queries.new_empty(queries.shape[0], min(k, keys.shape[0]), dtype=torch.int64)


@torch.library.custom_op("rarememory::nearest_pair", mutates_args=())
def _nearest_pair(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    labels: Tensor,
    lookup: str,
    half_keys: Tensor | None,
) -> tuple[Tensor, Tensor]:
    pair = _search_pair(_lookup_named(lookup), queries, keys, values, labels, half_keys)
    # The outputs of an operator share no memory.
    return pair[0].clone(), pair[1].clone()


@_nearest_pair.register_fake
def _(
    queries: Tensor, keys: Tensor, values: Tensor, labels: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(labels), torch.empty_like(labels)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The operators of a read, written with torch's own operators, for export to ONNX.

    The scores of all slots are held at once. They are those of a matrix product, so the order of
    slots with nearly equal scores may differ from that of the package.

    Example:
        >>> import torch
        >>> from rarememory import Memory
        >>> memory = Memory(key_dim=4, memory_size=8, k=2, validate=False).eval()
        >>> program = torch.export.export(memory, (torch.ones(3, 4),))
        >>> program = program.run_decompositions(decompositions())
        >>> any("rarememory" in str(node.target) for node in program.graph.nodes)
        False
    """
    return {
        torch.ops.rarememory.nearest.default: _decomposed_nearest,
        torch.ops.rarememory.score.default: _decomposed_score,
        torch.ops.rarememory.order.default: _decomposed_order,
    }


def _decomposed_nearest(
    queries: Tensor,
    keys: Tensor,
    occupied: Tensor,
    k: int,
    lookup: str,
    half_keys: Tensor | None,
    among: Tensor | None = None,
) -> Tensor:
    marks = occupied if among is None else among
    scores = (queries @ keys.T.to(queries.dtype)).masked_fill(~marks, -torch.inf)
    best, slots = scores.topk(min(k, len(keys)), dim=1)
    return slots.masked_fill(~(best > -torch.inf), EMPTY)


def _decomposed_score(queries: Tensor, keys: Tensor, slots: Tensor) -> Tensor:
    scores = dot(queries.unsqueeze(1), keys[slots.clamp(min=0)])
    return scores.masked_fill(slots == EMPTY, -torch.inf)


def _decomposed_order(scores: Tensor, slots: Tensor) -> Tensor:
    # ONNX has no stable sort, but its TopK puts the lower index first in a tie.
    by_slot = slots.argsort(dim=-1)
    by_score = scores.gather(-1, by_slot).topk(slots.shape[1], dim=1).indices
    return by_slot.gather(-1, by_score)


@cache
def _lookup_named(lookup: str) -> Lookup:
    return choose_lookup(lookup).uncached()


def _use_operator(lookup: Lookup) -> bool:
    """Whether a program is compiled, and the name of the search stands for this very search."""
    if not torch.compiler.is_compiling():
        return False
    return type(lookup) is AutoLookup or type(lookup) is LOOKUPS.get(lookup.name)


def _search(
    lookup: Lookup,
    queries: Tensor,
    keys: Tensor,
    occupied: Tensor,
    k: int,
    half_keys: Tensor | None,
    among: Tensor | None,
) -> Tensor:
    search, extra = _search_for(lookup, queries, keys, k, half_keys)
    if among is None:
        found = search.nearest(queries, keys, occupied, k, **extra)
    elif search.reads_among:
        found = search.nearest(queries, keys, occupied, k, **{**extra, "among": among})
    elif among.dim() == 1:
        found = search.nearest(queries, keys, among, k, **extra)
    else:
        found = _asked_in_turn(search, queries, keys, among, k, extra)
    slots = _checked(search, found, occupied, len(queries), k)
    missing = min(k, len(keys)) - slots.shape[1]
    return torch.nn.functional.pad(slots, (0, missing), value=EMPTY) if missing else slots


def _asked_in_turn(
    search: Lookup, queries: Tensor, keys: Tensor, among: Tensor, k: int, extra: dict[str, Any]
) -> Tensor:
    """By a search that has one set of slots for all queries: those with equal sets at a time."""
    slots = torch.full(
        (len(queries), min(k, len(keys))), EMPTY, dtype=torch.int64, device=keys.device
    )
    if len(queries):
        sets, number_of_set = among.unique(dim=0, return_inverse=True)
        for number, marks in enumerate(sets):
            rows = (number_of_set == number).nonzero().squeeze(1)
            found = search.nearest(queries[rows], keys, marks, k, **extra)
            found = _checked(search, found, marks, len(rows), k)
            slots[rows, : found.shape[1]] = found
    return slots


def _search_pair(
    lookup: Lookup,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    labels: Tensor,
    half_keys: Tensor | None,
) -> tuple[Tensor, Tensor]:
    search, extra = _search_for(lookup, queries, keys, 2, half_keys)
    positive, negative = search.nearest_pair(queries, keys, values, labels, **extra)
    occupied, rows = values != EMPTY, len(queries)
    return _checked(search, positive, occupied, rows), _checked(search, negative, occupied, rows)


def _search_for(
    lookup: Lookup, queries: Tensor, keys: Tensor, k: int, half_keys: Tensor | None
) -> tuple[Lookup, dict[str, Tensor]]:
    """The search that supports this call, with `half_keys` as a keyword if it reads it."""
    search = _supporting(lookup, queries, keys, k)
    return search, {} if half_keys is None or not search.reads_half_keys else {
        "half_keys": half_keys
    }


def _supporting(lookup: Lookup, queries: Tensor, keys: Tensor, k: int) -> Lookup:
    if isinstance(lookup, AutoLookup):
        return lookup.first(queries, keys, k)
    if (reason := lookup.why_not(queries, keys, k)) is not None:
        raise ValueError(reason)
    return lookup


def _checked(search: Lookup, slots: Tensor, occupied: Tensor, *most: int) -> Tensor:
    """The slots found; those of a search from outside the package are checked, EMPTY if empty.

    Raises:
        ValueError: they are no tensor of integers of this shape (with as many columns at most), or
            do not exist.
    """
    if type(search) is LOOKUPS.get(search.name):
        return slots
    shape = tuple(getattr(slots, "shape", ()))
    fits = len(shape) == len(most) and shape[0] == most[0] and shape[-1] <= most[-1]
    if not isinstance(slots, Tensor) or slots.dtype not in _INTEGERS or not fits:
        wanted = f"[{', at most '.join(map(str, most))}]"
        kind = f"{slots.dtype} {list(shape)}" if isinstance(slots, Tensor) else type(slots).__name__
        raise ValueError(
            f"the lookup {search.name!r} returned {kind}, and not slots: a tensor of integers "
            f"{wanted}, for {most[0]} queries"
        )
    slots = slots.long()
    if host_may_read(slots) and slots.numel():
        lowest, highest = (int(slot) for slot in slots.aminmax())
        if lowest < EMPTY or highest >= len(occupied):
            raise ValueError(
                f"the lookup {search.name!r} names slot {lowest if lowest < EMPTY else highest}, "
                f"and this memory has 0 to {len(occupied) - 1}, and EMPTY ({EMPTY}) for none"
            )
    return slots.masked_fill(~occupied[slots], EMPTY)
