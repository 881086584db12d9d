"""What a process holds of a memory, and what it gets from the others."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from rarememory.base.state import EMPTY, MemoryState
from rarememory.distributed.layout import Layout
from rarememory.distributed.ranks import Ranks
from rarememory.memory.queries import Rows
from rarememory.memory.slots import SlotBuffers
from rarememory.memory.spans import Span
from rarememory.memory.usage import Usage


class Shard(NamedTuple):
    """What a process holds of the memory.

    Attributes:
        state: of its slots.
        usage: of its slots, if it is counted.
        span: where they are in the memory.
        ranks: the processes.
    """

    state: MemoryState
    usage: Usage | None
    span: Span
    ranks: Ranks

    @property
    def chunk(self) -> int:
        """Slots of a process, but for the last ones, which may have fewer or none."""
        return len(range_of(self.span.memory_size, self.ranks.size, 0))

    def local(self, slots: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """Slots of the memory as slots of this shard; EMPTY if they are in another one."""
        mine = (slots >= self.span.first) & (slots < self.span.first + len(self.state.values))
        return (slots - self.span.first).where(mine, EMPTY)

    def fetched(
        self,
        slots: Int64[Tensor, "rows k"],
        counts: list[int],
        buffers: list[Shaped[Tensor, "slots ..."]],
    ) -> list[Shaped[Tensor, "all ..."]]:
        """What these buffers hold in slots of any shard, one after the other; zero for EMPTY.

        Args:
            slots: those that this process asks for.
            counts: rows for which each process asks; the first ones of its slots.
            buffers: the parts of this process.
        """
        ranks, columns = self.ranks, slots.shape[1]
        layout, rows = Layout.of(*buffers), [count * columns for count in counts]
        asked = slots[: counts[ranks.own]].reshape(-1, 1)
        here = self.local(ranks.gather_rows(asked, rows).view(-1))
        sent = [int((part != EMPTY).sum()) for part in here.split(rows)]
        # They come in the order of the shards; EMPTY is in none.
        owner = asked.view(-1).div(self.chunk, rounding_mode="floor")
        in_order = owner.argsort(stable=True)[int((owner < 0).sum()) :]
        received = owner[in_order].bincount(minlength=ranks.size).tolist()
        here = here[here != EMPTY]
        words = ranks.exchange(
            lambda: layout.pack(*(part[here] for part in buffers)), sent, received, layout.words
        )
        found = words.new_zeros(len(asked), layout.words)
        found[in_order] = words
        return layout.unpack(found)

    def resized(
        self, slots: SlotBuffers, old_slots: Int64[Tensor, " memory_size"]
    ) -> dict[str, Tensor]:
        """What this process holds where the slots of the memory are to be these old ones.

        Args:
            slots: the parts of this process.
            old_slots: of the whole memory; EMPTY for an empty one.
        """
        size, processes = len(old_slots), self.ranks.size
        ranges = [range_of(size, processes, rank) for rank in range(processes)]
        mine = ranges[self.ranks.own]
        held = old_slots[mine.start : mine.stop]
        counts, buffers = [len(one) for one in ranges], [*slots.tensors.values()]
        parts = self.fetched(held.unsqueeze(1), counts, buffers)
        new = dict(zip(slots.tensors, parts, strict=True))
        SlotBuffers(new, slots.fills).empty(held == EMPTY)
        return new

    def whole(self) -> "Shard":
        """As one shard of all slots, without keys, on every process."""
        numbers = [*self.state[1:3], *(() if self.usage is None else self.usage[:2])]
        size, processes = self.span.memory_size, self.ranks.size
        counts = [len(range_of(size, processes, rank)) for rank in range(processes)]
        words = self.ranks.gather_rows(torch.stack(numbers, dim=1), counts)
        values, written, *usage = (column.contiguous() for column in words.unbind(1))
        keys = self.state.keys[:0]
        state = self.state._replace(keys=keys, values=values, written=written)
        counted = None if self.usage is None else Usage(usage[0], usage[1], self.usage.reads)
        return self._replace(state=state, usage=counted, span=Span(size))


def layout_of_rows(keys: Float[Tensor, "slots key_dim"]) -> Layout:
    """How rows travel: queries, labels, whether they count, and their nearest slots."""
    numbers = torch.empty(0, dtype=torch.int64)
    wide = torch.promote_types(keys.dtype, torch.float32)
    return Layout.of(keys[:0].to(wide), numbers, numbers.bool(), numbers)


def packed(rows: Rows, nearest: Int64[Tensor, " batch"] | None = None) -> Int64[Tensor, "batch n"]:
    """Rows, without gradient, and their nearest slots, if they are known."""
    queries = rows.queries.detach()
    missing = torch.full((len(queries),), EMPTY, device=queries.device)
    labels = missing if rows.labels is None else rows.labels
    mask = torch.ones_like(missing, dtype=torch.bool) if rows.mask is None else rows.mask
    parts = (queries, labels, mask, missing if nearest is None else nearest)
    return Layout.of(*parts).pack(*parts)


def unpacked(
    words: Int64[Tensor, "rows n"], layout: Layout, labelled: bool
) -> tuple[Rows, Int64[Tensor, " rows"]]:
    """What was packed."""
    queries, labels, mask, nearest = layout.unpack(words)
    right, counted = labels if labelled else None, None if mask.all() else mask
    return Rows(queries, right, counted, queries.shape[:1]), nearest


def range_of(memory_size: int, processes: int, rank: int) -> range:
    """The slots of a process: as many each as it takes, so that the last ones may have none.

    Example:
        >>> [range_of(5, 4, rank) for rank in range(4)]
        [range(0, 2), range(2, 4), range(4, 5), range(5, 5)]
    """
    chunk = -(-memory_size // processes)
    first = min(rank * chunk, memory_size)
    return range(first, min(first + chunk, memory_size))
