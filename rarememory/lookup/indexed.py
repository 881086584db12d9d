"""A search with an index: a cache of the keys that is kept up to date and never saved."""

import threading
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from rarememory.base.shapes import Among, Keys, Neighbors, Occupied, Queries, SlotList
from rarememory.base.state import EMPTY
from rarememory.lookup.base import Lookup
from rarememory.lookup.changes import Changes
from rarememory.lookup.torch import TorchLookup


class IndexedLookup(Lookup):
    """A search by an index that is built at the first search and updated before each.

    With only `build` and `search`, every change of the memory builds the index again. With `add`
    and `remove` too, and `rebuild_after` set, only the changed slots are updated (`Changes` finds
    them). `keys` are always those of the whole memory, and no list of slots or queries is empty.
    Use one object for one memory: two would build it again in turn. Copies and pickles of a memory
    do not contain the index.

    A search may miss neighbours, but every slot found is occupied, and its score is exact. `write`
    uses the search too: where it misses the nearest slot, a known class gets a second one. The
    nearest pair, and so the loss, is exact: neighbours that are not the nearest would give wrong
    negatives.

    Attributes:
        exact_below: with fewer occupied slots than this the search is exact, and builds no index.
        rebuild_after: build again when more than this share of the slots changed since the last
            time; infinity never does.

    Raises:
        NotImplementedError: `rebuild_after` is set, and there is no `add` or no `remove`.

    Example:
        >>> class SameSigns(IndexedLookup):
        ...     name, exact_below = "same signs", 0
        ...     def build(self, keys, slots):
        ...         return slots, keys[slots] > 0
        ...     def search(self, index, queries, keys, k):
        ...         slots, signs = index
        ...         shared = ((queries > 0).unsqueeze(1) == signs).sum(2)
        ...         return slots[shared.topk(k).indices]
        >>> from rarememory import Memory
        >>> memory = Memory(key_dim=4, memory_size=9, k=1, lookup=SameSigns())
        >>> write = memory.write(1 - 2 * torch.eye(4), torch.arange(4))
        >>> memory(torch.tensor([3.0, 2.0, -1.0, 2.0])).prediction
        tensor(2)
    """

    reads_among = True
    exact_below: int = 512
    rebuild_after: float = 0.0
    _cache: "_Cache | None" = None

    @abstractmethod
    def build(self, keys: Keys, slots: SlotList) -> Any:
        """An index of the keys of these slots, each under the number of its slot."""

    def add(self, index: Any, keys: Keys, slots: SlotList) -> None:
        """Add the keys of these slots, which are not in the index."""
        raise NotImplementedError(f"{self.name} has rebuild_after > 0, and no add")

    def remove(self, index: Any, slots: SlotList) -> None:
        """Remove these slots, which are in the index."""
        raise NotImplementedError(f"{self.name} has rebuild_after > 0, and no remove")

    @abstractmethod
    def search(self, index: Any, queries: Queries, keys: Keys, k: int) -> Neighbors:
        """At most k distinct slots near to each query, in any order; EMPTY where there is none.

        All queries are finite, and the index holds at least k slots.
        """

    def nearest(
        self,
        queries: Queries,
        keys: Keys,
        occupied: Occupied,
        k: int,
        *,
        among: Among | None = None,
    ) -> Neighbors:
        """As `Lookup.nearest`; among some of the slots the search is exact, without the index."""
        if among is not None:
            return TorchLookup().nearest(queries, keys, occupied, k, among=among)
        count = int(occupied.sum())
        if count < max(1, self.exact_below):
            return TorchLookup().nearest(queries, keys, occupied, k)
        finite = queries.isfinite().all(1)
        k = min(k, count)
        found = queries.new_full((len(queries), k), EMPTY, dtype=torch.int64)
        if finite.any():
            slots = self._found(queries[finite], keys, occupied, k)
            # An empty slot is never found, even if the index names it.
            found[finite, : slots.shape[1]] = slots.masked_fill(~occupied[slots], EMPTY)
        return found

    def before_write(self, keys: Keys) -> None:
        if self._cache is not None:
            self._cache.changes.before_write(keys)

    def after_write(self, keys: Keys, slots: SlotList) -> None:
        if self._cache is not None:
            self._cache.changes.after_write(keys, slots)

    def _found(self, queries: Tensor, keys: Tensor, occupied: Tensor, k: int) -> Tensor:
        cache = self._cache
        if cache is None or not cache.changes.fits(keys):
            cache = self._cache = self._built(keys, occupied)
        # Reading changes the cache, so only one thread at a time may search.
        with cache.lock:
            try:
                self._bring_up_to_date(cache, keys, occupied)
                return self.search(cache.index, queries, keys, k)
            except BaseException:
                # The index may be partly updated.
                self._cache = None
                raise

    def _built(self, keys: Tensor, occupied: Tensor) -> "_Cache":
        slots = occupied.nonzero().squeeze(1)
        return _Cache(self.build(keys, slots), Changes(keys, occupied))

    def _bring_up_to_date(self, cache: "_Cache", keys: Tensor, occupied: Tensor) -> None:
        changed = cache.changes.since(keys, occupied)
        if not changed.any():
            return
        cache.changed |= changed
        if int(cache.changed.sum()) > self.rebuild_after * int(occupied.sum()):
            cache.replace_with(self._built(keys, occupied))
            return
        slots = changed.nonzero().squeeze(1)
        before, now = slots[cache.changes.indexed[slots]], slots[occupied[slots]]
        if len(before):
            self.remove(cache.index, before)
        if len(now):
            self.add(cache.index, keys, now)
        cache.changes.mark_indexed(keys, occupied, slots)

    def __getstate__(self) -> dict[str, Any]:
        return {name: part for name, part in self.__dict__.items() if name != "_cache"}


class _Cache:
    """An index, what it does not know yet, and which slots changed since it was built."""

    def __init__(self, index: Any, changes: Changes) -> None:
        self.index = index
        self.changes = changes
        self.changed = torch.zeros_like(changes.indexed)
        self.lock = threading.RLock()

    def replace_with(self, other: "_Cache") -> None:
        self.index, self.changes, self.changed = other.index, other.changes, other.changed
