"""What is at stake in a write: a state of the few slots that may change, alike on every process."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from rarememory.base.state import EMPTY, MemoryState, Write
from rarememory.distributed.layout import Layout
from rarememory.distributed.shards import Shard
from rarememory.memory import writing
from rarememory.memory.queries import Rows
from rarememory.memory.spans import Span
from rarememory.memory.updates import Update
from rarememory.memory.usage import Usage


class Stake(NamedTuple):
    """A small state on which every process does the same write.

    It holds the nearest slot of each row, and of each shard twice as many slots as there are rows,
    those that are to be given up first: even if half of them may not go, because rows are averaged
    into them, the slots that the whole memory would give up are among the rest.

    Attributes:
        state: the clock is that of the memory. Only the keys of nearest slots are known.
        usage: as far as the order of giving up needs it.
        span: which slots these are.
    """

    state: MemoryState
    usage: Usage | None
    span: Span

    def places(self, slots: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """Where these slots of the memory are in the small state; EMPTY is EMPTY."""
        assert self.span.slots is not None
        return torch.searchsorted(self.span.slots, slots).where(slots != EMPTY, EMPTY)

    def slots(self, places: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """Which slots of the memory are in these places; EMPTY is EMPTY."""
        assert self.span.slots is not None
        return self.span.slots[places].where(places != EMPTY, EMPTY)

    def write(
        self, update: Update, rows: Rows, nearest: Int64[Tensor, " batch"]
    ) -> tuple[Write, Bool[Tensor, " batch"]]:
        """As `writing.write`, here; slots are those of the memory."""
        assert rows.labels is not None
        write, inserted = writing.write(
            *(self.state, update, rows.queries, rows.labels, self.places(nearest)),
            *(rows.mask, None, self.usage, self.span),
        )
        return write._replace(slots=self.slots(write.slots)), inserted

    def put_into(self, shard: Shard, slots: Int64[Tensor, " n"]) -> Int64[Tensor, " mine"]:
        """Let the shard hold what these slots of the memory hold here; return those it has."""
        changed = slots[slots != EMPTY]
        here = shard.local(changed)
        mine, places = here[here != EMPTY], self.places(changed)[here != EMPTY]
        for stored, new in zip(shard.state[:3], self.state[:3], strict=True):
            stored[mine] = new[places]
        return mine


def stake_of(shard: Shard, update: Update, nearest: Int64[Tensor, " batch"]) -> Stake:
    """What is at stake when rows with these nearest slots are written."""
    state, ranks, layout = shard.state, shard.ranks, Layout.of(shard.state.keys)
    numbers = [state.values, state.written]
    numbers += [] if shard.usage is None else [shard.usage.uses, shard.usage.used]
    each, width = min(2 * len(nearest), shard.chunk), len(numbers)

    def offer() -> Tensor:
        offers = nearest.new_zeros(ranks.size, each, 1 + width)
        offers[ranks.own, :, 0] = EMPTY
        first = _first_to_go(shard, update, each)
        listed = [first + shard.span.first, *(part[first] for part in numbers)]
        offers[ranks.own, : len(first)] = torch.stack(listed, dim=1)
        rows, here = nearest.new_zeros(len(nearest), width + layout.words), shard.local(nearest)
        mine = here != EMPTY
        here = here[mine]
        known = torch.stack([part[here] for part in numbers], dim=1)
        rows[mine] = torch.cat([known, layout.pack(state.keys[here])], dim=1)
        return torch.cat([offers.flatten(), rows.flatten()])

    # What one process offers is zero in what the others do: their sum is all of it, bit by bit.
    sizes = [ranks.size * each * (1 + width), len(nearest) * (width + layout.words)]
    offers, rows = ranks.total(offer, sum(sizes)).split(sizes)
    offers, rows = offers.view(-1, 1 + width), rows.view(len(nearest), -1)
    slots = torch.cat([offers[:, 0], nearest])
    known = torch.cat([offers[:, 1:], rows[:, :width]])
    there, real = slots != EMPTY, nearest != EMPTY
    listed = slots[there].unique()
    table = known.new_zeros(len(listed), width)
    table[torch.searchsorted(listed, slots[there])] = known[there]
    values, written, *usage = (column.contiguous() for column in table.unbind(1))
    keys = state.keys.new_zeros(len(listed), state.keys.shape[1])
    (keys[torch.searchsorted(listed, nearest[real])],) = layout.unpack(rows[real][:, width:])
    small = MemoryState(keys, values, written, state.clock, state.seed)
    counted = None if shard.usage is None else Usage(usage[0], usage[1], shard.usage.reads)
    return Stake(small, counted, Span(shard.span.memory_size, slots=listed))


def _first_to_go(shard: Shard, update: Update, count: int) -> Tensor:
    if len(shard.state.values) == 0:
        return shard.state.values
    return writing.eviction_order(shard.state, update, count, usage=shard.usage, span=shard.span)
