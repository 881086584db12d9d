"""A draft: what was written in a block that is undone, at the cost of the slots that changed."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from rarememory.base.state import EMPTY, MemoryState
from rarememory.lookup.exact import ranked, tolerance
from rarememory.memory.queries import Rows, full_precision

_MOST = 256
"""Of more changed slots than this a new search is as good as a look at each."""

_MANY = 2**16
"""Of so many slots the order in which they are given up takes longer than to follow it."""

_WORTH_A_PRODUCT = 64
"""Candidates that are worth a matrix product before their exact scores."""


class Search(NamedTuple):
    """What was searched.

    Attributes:
        given: queries as they came.
        queries: the same, of unit length.
        slots: the slot that was nearest to each.
        oldest: the slots to give up first, in their order; None where that is not followed.
    """

    given: object
    queries: Tensor
    slots: Tensor
    oldest: Tensor | None = None


class Searched(Exception):
    """The end of a draft that is to search only, and has."""


class Draft:
    """What a block of `Memory.draft` changed.

    Args:
        buffers: of the memory, with an entry for each slot.
        search: of an earlier draft of the same write, whose search was not in vain.
        changed: the slots that have changed since then.
        only_search: end the block by `Searched` once it has searched, before anything changes.
        find_oldest: finds so many slots to give up first, if these are empty ones, and then the
            oldest.

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
        only_search: bool = False,
        find_oldest: Callable[[int], Tensor] | None = None,
    ) -> None:
        self._buffers, self._earlier, self._changed = buffers, search, changed
        self._only_search = only_search
        self._find_oldest = find_oldest if len(buffers["values"]) >= _MANY else None
        self.search: Search | None = None
        self.slots: Int64[Tensor, " slots"] = buffers["values"][:0]
        self.before: dict[str, Shaped[Tensor, "..."]] = {}
        self.rows: dict[str, Shaped[Tensor, "..."]] = {}

    def keep(self, slots: Int64[Tensor, " slots"]) -> None:
        """Keep what these slots hold, which are about to change."""
        new = self._new(slots)
        rows = self._rows_of(new)
        if self.before:
            rows = {name: torch.cat([self.before[name], part]) for name, part in rows.items()}
            new = torch.cat([self.slots, new])
        self.slots, self.before = new, rows

    def _new(self, slots: Tensor) -> Tensor:
        """Those of the slots that are not kept yet, each once."""
        if len(slots) <= _MOST:
            found = {*slots.tolist()} - {EMPTY} - {*self.slots.tolist()}
            few: Tensor = slots.new_tensor(sorted(found))
            return few
        many: Tensor = slots[slots >= 0].unique()
        return many[~torch.isin(many, self.slots)]

    def close(self) -> None:
        """Take what the slots hold now, of those that hold something else than before."""
        if self.rows:
            return
        self.rows = self._rows_of(self.slots)
        self.before = self.before or self.rows
        changed: Tensor = self.rows["written"] != self.before["written"]
        # A write leaves its number in each slot; other changes may not.
        if changed.all():
            return
        for name, rows in self.rows.items():
            differ = rows != self.before[name]
            changed |= differ.flatten(1).any(1) if differ.dim() > 1 else differ
        if changed.all():
            return
        self.slots = self.slots[changed]
        for parts in (self.rows, self.before):
            parts.update({name: rows[changed] for name, rows in parts.items()})

    def _rows_of(self, slots: Tensor) -> dict[str, Tensor]:
        return {name: buffer.index_select(0, slots) for name, buffer in self._buffers.items()}

    def units(self, queries: object) -> Float[Tensor, "batch key_dim"] | None:
        """The queries of unit length, if they are those of the earlier search."""
        earlier = self._earlier
        return earlier.queries if earlier is not None and earlier.given is queries else None

    def nearest(
        self,
        given: object,
        rows: Rows,
        state: MemoryState,
        search: Callable[[Rows], Tensor],
    ) -> Int64[Tensor, " batch"]:
        """The slot nearest to each row: by a search, or by the earlier one and what has changed.

        Args:
            given: queries as they came.
            rows: of these queries.
            state: of the memory.
            search: finds the one nearest slot of rows.
        """
        first = self.search is None and len(self.slots) == 0
        found = self._adjusted(rows, state, search) if first else None
        slots = search(rows).squeeze(1) if found is None else found
        if first:
            given = given if rows.mask is None else None
            self.search = Search(given, rows.queries, slots)
        if self._only_search:
            self.oldest(state, len(slots), slots[:0])
            raise Searched
        return slots

    def oldest(
        self, state: MemoryState, count: int, keep: Int64[Tensor, " kept"]
    ) -> Int64[Tensor, " count"] | None:
        """The slots to give up first, none of `keep`: by the earlier order and what has changed.

        None where only a look at all slots tells.
        """
        if self._find_oldest is None:
            return None
        keep = keep[keep != EMPTY]
        wanted = count + len(keep)
        first = self.search is not None and self.search.oldest is None and len(self.slots) == 0
        if not first or wanted + _MOST > len(state.values):
            return None
        order = self._followed(state, wanted)
        if order is None:
            # Some more, for those that change until it is asked for again.
            order = self._find_oldest(wanted + _MOST)
        assert self.search is not None
        self.search = self.search._replace(oldest=order)
        return order[~torch.isin(order, keep)][:count]

    def _followed(self, state: MemoryState, wanted: int) -> Tensor | None:
        """The earlier order after the changes; None where it does not reach far enough."""
        earlier, changed = self._earlier, self._changed
        if earlier is None or earlier.oldest is None or changed is None:
            return None
        rest = earlier.oldest[~torch.isin(earlier.oldest, changed)]
        if len(rest) < wanted:
            return None
        slots = torch.cat([rest, changed]).sort().values
        # Empty slots come first; of equal ones the lower slot.
        written = state.written[slots].where(state.values[slots] != EMPTY, -1)
        order = slots[written.argsort(stable=True)]
        # Beyond the last of the rest there may be others, which have not changed.
        reached = int((order == rest[-1]).nonzero())
        return order[: reached + 1]

    def _adjusted(
        self, rows: Rows, state: MemoryState, search: Callable[[Rows], Tensor]
    ) -> Tensor | None:
        if self._earlier is None or self._changed is None or rows.mask is not None:
            return None
        (_, queries, slots, _), changed = self._earlier, self._changed
        same = queries is rows.queries or torch.equal(queries, rows.queries)
        if not same or len(changed) > _MOST:
            return None
        if len(changed) == 0:
            return slots
        old = slots.unsqueeze(1)
        there = changed.where(state.values[changed] != EMPTY, EMPTY).expand(len(slots), -1)
        candidates = torch.cat([old, there], dim=1)
        found = self._best(rows.queries, state, candidates)
        if not {*changed.tolist()}.isdisjoint(slots.tolist()):
            # What was nearest may be farther now: others could be nearer than it is.
            vain = (old == changed).any(1).nonzero().squeeze(1)
            found[vain] = search(rows.some(vain)).squeeze(1)
        return found

    def _best(self, queries: Tensor, state: MemoryState, candidates: Tensor) -> Tensor:
        """The nearest of the candidates of each row, of which the first is likely to be it."""
        if candidates.numel() < _WORTH_A_PRODUCT:
            return ranked(queries, state.keys, state.values, candidates)[0][:, 0].contiguous()
        found = candidates[:, 0].clone()
        keys = state.keys[candidates[0, 1:]].to(queries.dtype)
        first = (queries * state.keys[found].to(queries.dtype)).sum(1)
        with full_precision(state):
            others = (queries @ keys.T).amax(1)
        # Only exact scores tell which of nearly equal ones is the nearest.
        near = (found == EMPTY) | (others >= first - 2 * tolerance(state.keys))
        if near.any():
            some = (state.keys, state.values, candidates[near])
            found[near] = ranked(queries[near], *some)[0][:, 0]
        return found
