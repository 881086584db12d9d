"""What has changed in the keys since an index last looked, without comparing all each time."""

import torch
from torch import Tensor

from rarememory.base.caches import Cache
from rarememory.base.shapes import Keys, Occupied, SlotList

_NUMBERS_AT_ONCE = 2**22
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Changes(Cache):
    """The slots in which the keys differ from what an index holds.

    A slot filled or emptied is seen by comparing `occupied`. A write of the memory is reported (see
    `Cache`), at the cost of the batch. After a change that was not (a checkpoint loaded, a snapshot
    undone, an edit by hand), all keys are compared once with fingerprints of those in the index.
    Ages could not serve instead: undoing a snapshot sets the clock back.

    What torch does not count, changes through NumPy or `.data`, is not seen. It can hide a slot
    from its new neighbours, but makes no score wrong: the memory computes those from its own keys.
    """

    def __init__(self, keys: Keys, occupied: Occupied) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weights = torch.empty(keys.shape[1], dtype=torch.int64)
        self._weights = weights.random_(generator=generator).to(keys.device)
        # One place more than there are slots: EMPTY lands there.
        self._reported = torch.zeros(len(keys) + 1, dtype=torch.bool, device=keys.device)
        self._prints = self._fingerprints(keys)
        self.indexed = occupied.clone()
        self.tracker.record(keys)

    def fits(self, keys: Keys) -> bool:
        """Whether the keys can be compared with those of the index at all."""
        here = keys.device == self.indexed.device
        return here and (len(keys), keys.shape[1]) == (len(self.indexed), len(self._weights))

    def update(self, keys: Keys, slots: SlotList) -> None:
        """Remember that these slots have changed."""
        self._reported[slots] = True

    def since(self, keys: Keys, occupied: Occupied) -> Occupied:
        """The slots that the index does not hold as they are now."""
        changed = self._reported[:-1]
        if not self.tracker.is_unchanged(keys):
            changed |= self._fingerprints(keys) != self._prints
            self.tracker.record(keys)
        return changed | (occupied ^ self.indexed)

    def mark_indexed(self, keys: Keys, occupied: Occupied, slots: SlotList) -> None:
        """The index now holds these slots too as they are."""
        self._prints[slots] = self._fingerprints(keys[slots])
        self.indexed = occupied.clone()
        self._reported.zero_()

    def _fingerprints(self, keys: Tensor) -> Tensor:
        """sum_i w_i b_i mod 2^64 of the bits b of each key, with random weights w.

        Integers, so that equal keys have equal ones everywhere; two keys that differ share theirs
        by a chance of one in billions.
        """
        bits = keys.view(_BITS[keys.element_size()])
        rows = max(1, _NUMBERS_AT_ONCE // keys.shape[1])
        return torch.cat([(some.long() * self._weights).sum(1) for some in bits.split(rows)])
