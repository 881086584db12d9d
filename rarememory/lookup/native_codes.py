"""Codes of the keys for the search in C++: a cache that is kept up to date and never saved."""

import platform
from typing import Any

import torch
from torch import Tensor

from rarememory.base.caches import Cache
from rarememory.base.shapes import Keys, SlotList
from rarememory.base.spot_checks import scattered
from rarememory.native import empty_output, library, prepared

_MEASURED = platform.machine() in {"x86_64", "AMD64"}
"""Whether codes were measured to be quicker on this kind of processor."""
_QUERIES_BEFORE_CODING = 16
"""Queries before the keys are coded, which takes as long as about ten searches."""
_MISSES_ALLOWED = 64
"""Queries that codes did not answer, less those they did, after which codes are dropped."""
_QUERIES_BEFORE_RETRY = 4096
"""Queries after which dropped codes are tried again."""
_GROUP = 64
"""Slots are coded in groups: a multiple of the lanes of every processor."""
_LINE = 64
"""Bytes that a row of codes is a multiple of, as in codes.h."""


def worth_coding(queries: int, slots: int, k: int) -> bool:
    """Whether a search by codes was measured to be quicker for so many queries, slots and k.

    One query saves most of the reading of the keys. Several queries share that reading, so they
    save less.
    """
    return _MEASURED and slots >= max(1024, k * (2 if queries == 1 else 32))


class Codes:
    """One byte for each number of each key, and the error of each coded key (codes.h).

    The error of a key that is not finite, or longer than unit length, counts as unbounded.

    Args:
        keys: of all slots.
        rows: keep the bytes of each slot side by side too, for searches among few of the slots.
    """

    def __init__(self, keys: Keys, *, rows: bool = False) -> None:
        slots, key_dim = keys.shape
        padded = -slots % _GROUP + slots
        self.bytes = empty_output(padded, (key_dim + 3) // 4 * 4, dtype=torch.uint8)
        self.steps = empty_output(padded, dtype=torch.float32)
        self.off = empty_output(padded, dtype=torch.float32)
        self.rows = None
        if rows:
            self.rows = empty_output(slots, -(-key_dim // _LINE) * _LINE, dtype=torch.uint8)
        self.pointers = prepared(self.bytes, self.steps, self.off, self.rows)
        # Slots added by the padding have the code of a zero vector.
        for part, zero in ((self.bytes, 128), (self.steps, 0), (self.off, 0)):
            part.fill_(zero)
        self.missed = 0
        self._order, self._turn = scattered(slots), 0
        (self._first_sampled,) = prepared(self._order)
        self._code(keys, None, slots)

    def sample(self) -> tuple[int, int]:
        """The slots whose codes are compared with their keys this time: address and number."""
        self._turn = turn = (self._turn + 1) % self._order.shape[0]
        return self._first_sampled + 8 * turn, 1

    def update(self, keys: Keys, slots: SlotList) -> None:
        """Code the keys of these slots again; EMPTY stands for no slot."""
        slots = slots.contiguous()
        self._code(keys, slots, len(slots))

    def count_misses(self, queries: int, missed: int) -> None:
        """Record that codes did not answer `missed` of these queries."""
        # One of a few takes as long as all of them: they share the reading of the keys.
        cost = min(queries, -(-missed // 16) * 16)
        self.missed = max(0, self.missed + 2 * cost - queries)

    def _code(self, keys: Tensor, named: Tensor | None, count: int) -> None:
        threads = torch.get_num_threads()
        library().code(keys, *keys.shape, named, count, *self.pointers, threads)


class CodeCache:
    """Codes of keys that are searched often; a change that is not reported discards them.

    Memory shared with other processes is never coded, since torch does not count what they write.
    Other changes that it does not count are met by samples: each search compares one code with its
    key, each time another.
    """

    def __init__(self) -> None:
        self._seen = _KeysSeen()

    def codes_for(
        self, keys: Keys, queries: int, k: int, *, filtered: bool = False
    ) -> Codes | None:
        """Codes that hold for these keys, or None where they do not pay, or not yet.

        With rows, once there have been as many queries among some of the slots.
        """
        if not worth_coding(queries, keys.shape[0], k):
            return None
        seen = self._seen
        if not seen.tracker.is_unchanged(keys):
            # A new object, for there may be readers in other threads, who have other keys.
            self._seen = seen = _KeysSeen()
            seen.tracker.record(keys)
        if seen.codes is not None and seen.codes.missed > _MISSES_ALLOWED:
            seen.codes, seen.queries = None, -_QUERIES_BEFORE_RETRY
        elif seen.codes is None and seen.queries >= _QUERIES_BEFORE_CODING and not keys.is_shared():
            seen.codes = Codes(keys)
        elif filtered and seen.wants_rows():
            # A new object, for there may be readers in other threads.
            seen.codes = Codes(keys, rows=True)
        seen.queries += queries
        seen.filtered += queries if filtered else 0
        return seen.codes

    def before_write(self, keys: Keys) -> None:
        """As in `Cache`."""
        self._seen.before_write(keys)

    def after_write(self, keys: Keys, slots: SlotList) -> None:
        """As in `Cache`."""
        self._seen.after_write(keys, slots)

    def __getstate__(self) -> dict[str, Any]:
        return CodeCache().__dict__


class _KeysSeen(Cache):
    """Keys as they were, the queries asked of them since, and their codes once there are any."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.filtered = 0, 0
        self.codes: Codes | None = None

    def wants_rows(self) -> bool:
        """Whether reads among some slots are frequent, and their codes are not in rows yet."""
        if self.codes is None or self.codes.rows is not None:
            return False
        return self.filtered >= _QUERIES_BEFORE_CODING

    def before_write(self, keys: Keys) -> None:
        super().before_write(keys)
        # A compiled program writes later than this runs: its changes are not reported.
        self._up_to_date &= not torch.compiler.is_compiling()

    def update(self, keys: Keys, slots: SlotList) -> None:
        if self.codes is not None:
            self.codes.update(keys, slots)
