"""A draft: what was written in a block that is undone, at the cost of the slots that changed."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from rarememory.base.state import MemoryState
from rarememory.lookup.exact import ranked
from rarememory.memory.queries import Rows

_MOST = 256
"""Of more changed slots than this a new search is as good as a look at each."""


class Search(NamedTuple):
    """Queries of unit length, and the slot that was nearest to each."""

    queries: Tensor
    slots: Tensor


class Draft:
    """What a block of `Memory.draft` changed.

    Args:
        buffers: of the memory, with an entry for each slot.
        search: of an earlier draft of the same write, whose search was not in vain.
        changed: the slots that have changed since then.

    Attributes:
        slots: that were changed, or may have been; each once.
        rows: what each buffer holds there at the end of the block.
        search: the first one, for the draft after this one.
    """

    def __init__(
        self,
        buffers: Mapping[str, Tensor],
        search: Search | None = None,
        changed: Tensor | None = None,
    ) -> None:
        self._buffers, self._earlier, self._changed = buffers, search, changed
        self.search: Search | None = None
        self.slots: Int64[Tensor, " slots"] = buffers["values"][:0]
        self.before: dict[str, Shaped[Tensor, "..."]] = self._copies()
        self.rows: dict[str, Shaped[Tensor, "..."]] = {}

    def keep(self, slots: Int64[Tensor, " slots"]) -> None:
        """Keep what these slots hold, which are about to change."""
        new = slots[slots >= 0].unique()
        if len(self.slots):
            new = new[~torch.isin(new, self.slots)]
        for name, buffer in self._buffers.items():
            self.before[name] = torch.cat([self.before[name], buffer[new]])
        self.slots = torch.cat([self.slots, new])

    def close(self) -> None:
        """Take what the slots hold now, of those that hold something else than before."""
        if self.rows:
            return
        self.rows = self._copies()
        changed = torch.zeros_like(self.slots, dtype=torch.bool)
        for name, rows in self.rows.items():
            differ = rows != self.before[name]
            changed |= differ.flatten(1).any(1) if differ.dim() > 1 else differ
        if changed.all():
            return
        self.slots = self.slots[changed]
        for parts in (self.rows, self.before):
            parts.update({name: rows[changed] for name, rows in parts.items()})

    def _copies(self) -> dict[str, Tensor]:
        return {name: buffer[self.slots] for name, buffer in self._buffers.items()}

    def nearest(
        self, rows: Rows, state: MemoryState, search: Callable[[], Tensor]
    ) -> Int64[Tensor, " batch"]:
        """The slot nearest to each row: by a search, or by the earlier one and what has changed."""
        first = self.search is None and len(self.slots) == 0
        found = self._adjusted(rows, state) if first else None
        slots = search().squeeze(1) if found is None else found
        if first:
            self.search = Search(rows.queries, slots)
        return slots

    def _adjusted(self, rows: Rows, state: MemoryState) -> Tensor | None:
        if self._earlier is None or self._changed is None or rows.mask is not None:
            return None
        queries, slots = self._earlier
        same = len(self._changed) <= _MOST and torch.equal(queries, rows.queries)
        if not same or torch.isin(slots, self._changed).any():
            return None
        there = self._changed[state.occupied[self._changed]].expand(len(slots), -1)
        candidates = torch.cat([slots.unsqueeze(1), there], dim=1)
        return ranked(rows.queries, state.keys, state.values, candidates)[0][:, 0]
