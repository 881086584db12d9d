"""Who takes part: our lookups, as many as the package lists, and what every call gives back."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.lookup.cells import Cell, Inputs
from rarememory.lookup import LOOKUPS, Lookup, choose_lookup
from rarememory.lookup.exact import order, score

Answer = tuple[Any, Any]
"""Slots and scores, or None for scores; for the nearest pair the positives and the negatives."""
Call = Callable[[], Answer]

OURS = "ours"


class Refused(Exception):
    """Someone does not take part in a cell, for a reason in one sentence."""


@dataclass(frozen=True)
class Contestant:
    """Someone who answers a cell.

    Attributes:
        prepare: everything that is done once for many queries; the call it returns is timed.
        exact: whether its answers have to be those of float64.
        in_order: whether it returns the best first.
        reads: the type of the keys it goes through, which decides its roofline.
        product: it answers nothing; a bare matrix product to compare with.
    """

    name: str
    family: str
    returns: str
    prepare: Callable[[Inputs, Cell], Call]
    exact: bool = True
    in_order: bool = False
    reads: str = "float32"
    product: bool = False


def ours(device: str, pair: bool) -> list[Contestant]:
    """Every lookup of the package, "auto", and "auto" with all that a read of a memory adds."""
    if pair:
        return [
            Contestant(
                name,
                OURS,
                "the slots of the nearest pair",
                partial(_nearest_pair, name),
                reads=_reads(name, "nearest_pair", device),
            )
            for name in [*LOOKUPS, "auto"]
        ]
    alone = [
        Contestant(
            name,
            OURS,
            "k slots in any order, of equal scores the lower slots",
            partial(_nearest, name),
            reads=_reads(name, "nearest", device),
        )
        for name in [*LOOKUPS, "auto"]
    ]
    ordered = Contestant(
        "auto.ordered",
        OURS,
        "as auto, then float32 scores of the slots, and both in the one order",
        partial(_nearest_in_order, "auto"),
        in_order=True,
        reads=_reads("auto", "nearest", device),
    )
    return [*alone, ordered]


def _nearest(name: str, inputs: Inputs, cell: Cell) -> Call:
    search = _search(name, "nearest", inputs, cell)
    return lambda: (search(inputs.queries, inputs.keys, inputs.occupied, cell.k), None)


def _nearest_in_order(name: str, inputs: Inputs, cell: Cell) -> Call:
    search = _search(name, "nearest", inputs, cell)

    def read() -> Answer:
        slots = search(inputs.queries, inputs.keys, inputs.occupied, cell.k)
        scores = score(inputs.queries, inputs.keys, slots)
        if cell.k == 1:
            return slots, scores
        places = order(scores, slots)
        return slots.gather(1, places), scores.gather(1, places)

    return read


def _nearest_pair(name: str, inputs: Inputs, cell: Cell) -> Call:
    search = _search(name, "nearest_pair", inputs, cell)
    return lambda: search(inputs.queries, inputs.keys, inputs.values, inputs.labels)


def _search(name: str, verb: str, inputs: Inputs, cell: Cell) -> Callable[..., Any]:
    """The verb of a lookup, given the half-precision keys if it wants them and is on a GPU."""
    try:
        lookup = choose_lookup(name)
    except ImportError as error:
        raise Refused(str(error)) from None
    # A memory asks with 2 before it looks the nearest pair up.
    reason = lookup.why_not(inputs.queries, inputs.keys, cell.k or 2)
    if reason is not None:
        raise Refused(reason)
    search: Callable[..., Any] = getattr(lookup, verb)
    if inputs.keys.is_cuda and _reads_half_keys(lookup, verb):
        return partial(search, half_keys=inputs.half_keys)
    return search


def _reads(name: str, verb: str, device: str) -> str:
    try:
        lookup = choose_lookup(name)
    except ImportError:
        return "float32"
    return "float16" if device == "cuda" and _reads_half_keys(lookup, verb) else "float32"


def _reads_half_keys(lookup: Lookup, verb: str) -> bool:
    return "half_keys" in inspect.signature(getattr(lookup, verb)).parameters
