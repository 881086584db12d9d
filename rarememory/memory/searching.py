"""The searches of a filtered read: the nearest slots of each row, and its nearest pair."""

from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from rarememory.base.state import EMPTY, MemoryState
from rarememory.lookup import Lookup
from rarememory.lookup.exact import ranked
from rarememory.memory.filters import Filter
from rarememory.memory.queries import Rows, nearest_slots, pair_of_slots


class FilteredSearch(NamedTuple):
    """What is searched, and how.

    Attributes:
        only: what each row may find.
        state: of the memory.
        half_keys: the keys in float16, if there is such a copy.
        lookup: the search.
    """

    only: Filter
    state: MemoryState
    half_keys: Tensor | None
    lookup: Lookup

    @torch.no_grad()
    def nearest(self, rows: Rows, k: int) -> Int64[Tensor, "batch k"]:
        """The k nearest slots of each row, [batch, min(k, slots)]; EMPTY in rows without any."""
        if self.only.not_slots is not None:
            return self._without_one(rows, k)
        parts = self.only.parts(rows, self.state)
        return torch.cat([self._nearest(some, k, marks) for some, marks in parts])

    @torch.no_grad()
    def pair(self, rows: Rows) -> Int64[Tensor, "batch 2"]:
        """The nearest slot of the right value and the nearest of a wrong one."""
        state = self.state
        if not self.only.of_each_row:
            state = state._replace(values=state.values.masked_fill(~self.only.slots, EMPTY))
            return pair_of_slots(rows, state, self.half_keys, self.lookup)
        parts = self.only.parts(rows, state)
        return torch.cat([self._pair_of_some(some, marks) for some, marks in parts])

    def _without_one(self, rows: Rows, k: int) -> Tensor:
        """The k nearest slots but one of each row: of one more, all but that one."""
        assert self.only.not_slots is not None
        others = self._replace(only=self.only._replace(not_slots=None))
        everything = others.only.whole and not others.only.of_each_row
        slots = self._nearest(rows, k + 1) if everything else others.nearest(rows, k + 1)
        slots, _, _ = ranked(rows.queries.detach(), self.state.keys, self.state.values, slots)
        slots = slots.masked_fill(slots == self.only.not_slots.unsqueeze(1), EMPTY)
        kept_first = (slots == EMPTY).to(torch.uint8).argsort(dim=1, stable=True)
        return slots.gather(1, kept_first)[:, :k]

    def _pair_of_some(self, rows: Rows, marks: Tensor) -> Tensor:
        assert rows.labels is not None
        right = self.state.values == rows.labels.unsqueeze(1)
        pair = [self._nearest(rows, 1, marks & own) for own in (right, ~right)]
        return torch.cat(pair, dim=1)

    def _nearest(self, rows: Rows, k: int, among: Tensor | None = None) -> Tensor:
        return nearest_slots(rows, self.state, self.half_keys, self.lookup, k, among)
