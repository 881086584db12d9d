"""The lookups of the package as candidates, and what a call of any candidate returns."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict, cast

from benchmarks.lookup.cells import Cell, Inputs
from rarememory.lookup import LOOKUPS, AutoLookup, Lookup, TritonLookup, choose_lookup
from rarememory.lookup.exact import ranked

Answer = tuple[Any, Any]
"""Slots and scores, or None for scores; for the nearest pair the positives and the negatives."""
Call = Callable[[], Answer]

OURS = "ours"
PAIR_SLOTS = "the slots of the nearest pair"
SORTED = "k sorted slots and their scores"
UNSORTED = "k slots and their scores, unsorted"
ANY_ORDER = "k slots in any order, of equal scores the lower slots"
IN_ORDER = "as auto, then scores and values of the slots, all in the one order"


class Refused(Exception):
    """A candidate does not take part in a cell, for a reason in one sentence."""


class Description(TypedDict):
    """What is known of a candidate in any cell; see `Candidate`."""

    family: str
    returns: str
    reads: str
    exact: bool
    product: bool


@dataclass(frozen=True)
class Candidate:
    """A way to answer a cell; the call that `prepare` returns is timed.

    Attributes:
        exact: whether its answers must be those of float64.
        in_order: whether it returns the best first.
        reads: the type of the keys that it reads, which decides its roofline.
        product: it is a bare matrix product, without an answer.
    """

    name: str
    family: str
    returns: str
    prepare: Callable[[Inputs, Cell], Call]
    exact: bool = True
    in_order: bool = False
    reads: str = "float32"
    product: bool = False

    @property
    def description(self) -> Description:
        """The part that another process can receive."""
        facts = {name: getattr(self, name) for name in Description.__annotations__}
        return cast(Description, facts)


def ours(device: str, pair: bool) -> list[Candidate]:
    """Every lookup of the package, "auto", and "auto" with all that a read of a memory adds."""
    verb, prepare = ("nearest_pair", _nearest_pair) if pair else ("nearest", _nearest)
    returns = PAIR_SLOTS if pair else ANY_ORDER
    found = [
        Candidate(name, OURS, returns, partial(prepare, name), reads=_reads(name, verb, device))
        for name in [*LOOKUPS, "auto"]
    ]
    if not pair:
        read = partial(_nearest_in_order, "auto")
        reads = _reads("auto", verb, device)
        found.append(Candidate("auto.ordered", OURS, IN_ORDER, read, in_order=True, reads=reads))
    return found


def _nearest(name: str, inputs: Inputs, cell: Cell) -> Call:
    search = _search(name, "nearest", inputs, cell)
    return lambda: (search(inputs.queries, inputs.keys, inputs.occupied, cell.k), None)


def _nearest_in_order(name: str, inputs: Inputs, cell: Cell) -> Call:
    search = _search(name, "nearest", inputs, cell)
    on_gpu = _search_on_gpu(name, inputs, cell)
    if on_gpu is not None:
        keys = (inputs.keys, inputs.values)
        return lambda: on_gpu.read(inputs.queries, *keys, cell.k, half_keys=inputs.half_keys)[:2]

    def read() -> Answer:
        slots = search(inputs.queries, inputs.keys, inputs.occupied, cell.k)
        return ranked(inputs.queries, inputs.keys, inputs.values, slots)[:2]

    return read


def _nearest_pair(name: str, inputs: Inputs, cell: Cell) -> Call:
    search = _search(name, "nearest_pair", inputs, cell)
    return lambda: search(inputs.queries, inputs.keys, inputs.values, inputs.labels)


def _search(name: str, verb: str, inputs: Inputs, cell: Cell) -> Callable[..., Any]:
    """The method of a lookup, with half-precision keys if it takes them and is on a GPU."""
    try:
        lookup = choose_lookup(name)
    except ImportError as error:
        raise Refused(str(error)) from None
    # A memory asks with 2 before it looks the nearest pair up.
    reason = lookup.why_not(inputs.queries, inputs.keys, cell.k or 2)
    if reason is not None:
        raise Refused(reason)
    search: Callable[..., Any] = getattr(lookup, verb)
    half = inputs.keys.is_cuda and _reads_half_keys(lookup, verb)
    return partial(search, half_keys=inputs.half_keys) if half else search


def _search_on_gpu(name: str, inputs: Inputs, cell: Cell) -> TritonLookup | None:
    """The search that a memory reads by, with scores and values, in order."""
    lookup = choose_lookup(name)
    if isinstance(lookup, AutoLookup):
        lookup = lookup.first(inputs.queries, inputs.keys, cell.k)
    return lookup if isinstance(lookup, TritonLookup) and inputs.keys.is_cuda else None


def _reads(name: str, verb: str, device: str) -> str:
    try:
        lookup = choose_lookup(name)
    except ImportError:
        return "float32"
    return "float16" if device == "cuda" and _reads_half_keys(lookup, verb) else "float32"


def _reads_half_keys(lookup: Lookup, verb: str) -> bool:
    return "half_keys" in inspect.signature(getattr(lookup, verb)).parameters
