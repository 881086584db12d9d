"""What has changed in the keys since an index last looked, without comparing all each time."""

import torch
from torch import Tensor

from rarememory.base.shapes import Keys, Occupied, SlotList
from rarememory.base.versions import VersionTracker

_NUMBERS_AT_ONCE = 2**22
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Changes:
    """The slots in which the keys differ from what an index holds.

    A slot filled or emptied is seen by comparing `occupied`. A key written by the memory is told of
    (`before_write`, `after_write`), at the cost of the batch. Torch counts the in-place changes of
    a tensor: where that count has moved further than what was told (a checkpoint loaded, a snapshot
    undone, an edit by hand), all keys are compared once with fingerprints of those in the index.
    Ages could not serve instead: undoing a snapshot sets the clock back.

    What torch does not count, changes through NumPy or `.data`, is not seen. It can hide a slot
    from its new neighbours, but makes no score wrong: the memory computes those from its own keys.
    """

    def __init__(self, keys: Keys, occupied: Occupied) -> None:
        generator = torch.Generator().manual_seed(0)
        weights = torch.empty(keys.shape[1], dtype=torch.int64)
        self._weights = weights.random_(generator=generator).to(keys.device)
        # One place more than there are slots: what is told of EMPTY lands there.
        self._reported = torch.zeros(len(keys) + 1, dtype=torch.bool, device=keys.device)
        self._prints = self._fingerprints(keys)
        self.indexed = occupied.clone()
        self._following = False
        self._tracker = VersionTracker()
        self._tracker.record(keys)

    def fits(self, keys: Keys) -> bool:
        """Whether the keys can be compared with those of the index at all."""
        here = keys.device == self.indexed.device
        return here and (len(keys), keys.shape[1]) == (len(self.indexed), len(self._weights))

    def before_write(self, keys: Keys) -> None:
        """A write comes: what happens to the keys from here to `after_write` is told there."""
        self._following = self._tracker.is_unchanged(keys)

    def after_write(self, keys: Keys, slots: SlotList) -> None:
        """The write has changed these slots and no other; EMPTY is none."""
        if self._following:
            self._reported[slots] = True
            self._tracker.record(keys)

    def since(self, keys: Keys, occupied: Occupied) -> Occupied:
        """The slots that the index does not hold as they are now."""
        changed = self._reported[:-1]
        if not self._tracker.is_unchanged(keys):
            changed |= self._fingerprints(keys) != self._prints
            self._tracker.record(keys)
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
