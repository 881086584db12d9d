"""The one read: neighbours by whatever lookup, and what is recalled of them, in the one order."""

import torch
from torch import Tensor

from rarememory.base.state import EMPTY, MemoryState, Recall
from rarememory.lookup import Lookup
from rarememory.lookup.exact import order
from rarememory.lookup.ops import nearest, nearest_pair
from rarememory.memory.queries import Rows


def nearest_slots(
    rows: Rows, state: MemoryState, half_keys: Tensor | None, lookup: Lookup, k: int
) -> Tensor:
    """The k nearest slots of each row, [batch, min(k, slots)]; EMPTY in rows that do not count."""
    with torch.no_grad(), _full_precision(state):
        return rows.masked(nearest(lookup, rows.asked(), state.keys, state.occupied, k, half_keys))


def pair_of_slots(
    rows: Rows, state: MemoryState, half_keys: Tensor | None, lookup: Lookup
) -> Tensor:
    """The nearest slot of the right value and the nearest of a wrong one, [batch, 2]."""
    assert rows.labels is not None
    with torch.no_grad(), _full_precision(state):
        pair = nearest_pair(lookup, rows.asked(), state.keys, state.values, rows.labels, half_keys)
        return rows.masked(torch.stack(pair, dim=1))


def recalled(
    rows: Rows,
    state: MemoryState,
    slots: Tensor,
    scores: Tensor,
    temperature: float,
    loss: Tensor | None,
) -> Recall:
    """The neighbours in the one order, in the shape that the queries came in."""
    if slots.shape[1] > 1:
        in_order = order(scores.detach(), slots)
        slots, scores = slots.gather(1, in_order), scores.gather(1, in_order)
    # Nothing is at slot EMPTY, the last slot of all: there the value is put right.
    values = state.values[slots].masked_fill_(slots == EMPTY, EMPTY)
    slots, scores, values, queries = (
        part.view(*rows.shape, part.shape[1]) for part in (slots, scores, values, rows.queries)
    )
    return Recall(slots, scores, values, queries, temperature, loss)


def _full_precision(state: MemoryState) -> torch.autocast:
    # Autocast would round the products of the search, and with them its answers.
    return torch.autocast(state.keys.device.type, enabled=False)
