"""Which keys have changed since an index was updated, mostly without comparing them all."""

import torch
from torch import Tensor

from rarememory.base.caches import Cache
from rarememory.base.shapes import Keys, Occupied, SlotList
from rarememory.base.spot_checks import SpotCheck, record_uncounted_change

_NUMBERS_AT_ONCE = 2**22
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Changes(Cache):
    """The slots whose keys differ from those in an index.

    Comparing `occupied` finds slots that were filled or emptied. The memory reports the slots that
    it writes (see `Cache`), at a cost in proportion to the batch. After any other change that torch
    counts (a checkpoint, the end of a snapshot, an edit by hand) all keys are compared once with
    fingerprints of those in the index. Ages would not do: the end of a snapshot restores the clock.

    Changes that torch does not count, through NumPy, `.data` or a collective, are found when a row
    of them is compared, one at each search. Until then a slot may be missed under its new key, but
    no score is wrong: the memory computes scores from its own keys.
    """

    def __init__(self, keys: Keys, occupied: Occupied) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weights = torch.empty(keys.shape[1], dtype=torch.int64)
        self._weights = weights.random_(generator=generator).to(keys.device)
        # One element more than there are slots: EMPTY (-1) writes to it.
        self._reported = torch.zeros(len(keys) + 1, dtype=torch.bool, device=keys.device)
        self._prints = self._fingerprints(keys)
        self._rows = SpotCheck()
        self.indexed = occupied.clone()
        self.tracker.record(keys)

    def fits(self, keys: Keys) -> bool:
        """Whether the keys have the device and shape of those in the index."""
        here = keys.device == self.indexed.device
        return here and (len(keys), keys.shape[1]) == (len(self.indexed), len(self._weights))

    def update(self, keys: Keys, slots: SlotList) -> None:
        """Record that these slots have changed; EMPTY stands for no slot."""
        self._reported[slots] = True

    def since(self, keys: Keys, occupied: Occupied) -> Occupied:
        """The slots whose keys in the index are out of date."""
        changed = self._reported[:-1]
        self._look_at_a_row(keys)
        if not self.tracker.is_unchanged(keys):
            changed |= self._fingerprints(keys) != self._prints
            self.tracker.record(keys)
        return changed | (occupied ^ self.indexed)

    def _look_at_a_row(self, keys: Tensor) -> None:
        if not self.tracker.is_unchanged(keys):
            return
        row = self._rows.next(keys)
        if row is None or self._reported[row]:
            return
        if self._fingerprints(keys[row : row + 1]) != self._prints[row]:
            record_uncounted_change(keys)

    def mark_indexed(self, keys: Keys, occupied: Occupied, slots: SlotList) -> None:
        """Record that these slots of the index are up to date again."""
        self._prints[slots] = self._fingerprints(keys[slots])
        self.indexed = occupied.clone()
        self._reported.zero_()

    def _fingerprints(self, keys: Tensor) -> Tensor:
        """sum_i w_i b_i mod 2^64 of each key, with its numbers as integers b and random weights w.

        Equal keys have equal fingerprints on every device; different keys have equal ones with a
        probability below 10^-9.
        """
        bits = keys.view(_BITS[keys.element_size()])
        rows = max(1, _NUMBERS_AT_ONCE // keys.shape[1])
        return torch.cat([(some.long() * self._weights).sum(1) for some in bits.split(rows)])
