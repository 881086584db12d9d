"""A write that is foreseen: what it would do, found without a draft, where policies are queues.

Each row takes a slot of its own, an empty one or the oldest: then what is written does not depend
on what the memory holds, and only where it goes has to be found.
"""

from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rarememory.base.state import MemoryState, Write
from rarememory.memory import writing
from rarememory.memory.drafts import Draft, Search
from rarememory.memory.module import Memory
from rarememory.memory.queries import Rows, nearest_slots, rows_of
from rarememory.memory.slots import SLOT_BUFFERS


class Foreseen(NamedTuple):
    """What a write would do, where each row takes a slot of its own.

    Attributes:
        write: what it would return.
        labels: of its rows.
        search: that it has made.
        order: the slots that it would give up, in their order.
        places: of each row in this order.
        rows: what each buffer would hold in these slots, in this order.
    """

    write: Write
    labels: Tensor
    search: Search
    order: Tensor
    places: Tensor
    rows: dict[str, Tensor]


@torch.no_grad()
def foresee(
    memory: Memory, queries: Float[Tensor, "batch key_dim"], labels: Int64[Tensor, " batch"]
) -> Foreseen | None:
    """What a write would do, where each row takes an empty slot or the oldest one.

    It costs less than a draft, for nothing is changed. None where the policy has it otherwise,
    where there are more rows than slots, or where the memory counts its usage.

    Raises:
        ValueError: as in `write`.

    Example:
        >>> from rarememory import FirstInFirstOut
        >>> memory = Memory(key_dim=2, memory_size=3, update=FirstInFirstOut())
        >>> foreseen = foresee(memory, torch.eye(2), torch.tensor([9, 7]))
        >>> foreseen.write.slots, foreseen.rows["values"], len(memory)
        (tensor([1, 0]), tensor([7, 9]), 0)
    """
    plain = type(memory).write is Memory.write and type(memory).write_rows is Memory.write_rows
    queue = plain and writing.is_queue(memory.update) and memory.usage is None
    if not queue or not 0 < len(queries) <= memory.memory_size:
        return None
    with memory.lock.reading():
        state = memory.state
        rows = rows_of(queries, labels, None, memory.keys, memory.projection, memory.validate)
        if rows.mask is not None or rows.labels is None:
            return None
        search, order = _searched(memory, queries, rows, state)
        given = (rows.queries, rows.labels, order)
        own, places, overwritten = writing.written_beside(state, *given)
        # Nothing is the nearest, EMPTY, only where the last slot is empty too.
        hits = state.values[search.slots] == rows.labels
        write = Write(order[places], hits, overwritten)
        filled = {name: getattr(own, name) for name in SLOT_BUFFERS}
        filled = {**memory.empty_slots(len(order)), **filled}
        return Foreseen(write, rows.labels, search, order, places, filled)


@torch.no_grad()
def foresee_again(
    memory: Memory, foreseen: Foreseen, changed: Int64[Tensor, " changed"]
) -> Foreseen:
    """What that write would do now, at the cost of the slots that have changed since then."""
    search, labels = foreseen.search, foreseen.labels
    with memory.lock.reading():
        rows, state = Rows(search.queries, None, None, search.queries.shape[:1]), memory.state
        search, order = _searched(memory, search.given, rows, state, search, changed)
        slots = order[foreseen.places]
        hits = state.values[search.slots] == labels
        write = Write(slots, hits, state.values[slots])
        written = torch.full_like(labels, int(state.clock) + 1)
        filled = {**foreseen.rows, "written": written}
        return foreseen._replace(write=write, search=search, order=order, rows=filled)


def _searched(
    memory: Memory,
    given: object,
    rows: Rows,
    state: MemoryState,
    earlier: Search | None = None,
    changed: Tensor | None = None,
) -> tuple[Search, Tensor]:
    """A search for these rows, and the slots that they would take, in their order."""
    buffers = {name: memory.get_buffer(name) for name in SLOT_BUFFERS}
    oldest = partial(writing.eviction_order, state, memory.update)
    draft = Draft(buffers, earlier, changed, find_oldest=oldest)
    copy = memory.half_precision_copy
    half_keys = None if copy is None else copy.of(memory.keys)
    search = partial(nearest_slots, state=state, half_keys=half_keys, lookup=memory.lookup, k=1)
    nearest = draft.nearest(given, rows, state, search)
    order = draft.oldest(state, len(nearest), nearest[:0])
    if order is None:
        order = oldest(len(nearest))
    assert draft.search is not None
    return draft.search, order
