"""The searches in C++ (rarememory/native), the fastest on a CPU."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rarememory.base.shapes import (
    Among,
    Keys,
    Labels,
    Neighbors,
    Occupied,
    Pair,
    Queries,
    SlotList,
    Values,
)
from rarememory.base.spot_checks import record_uncounted_change
from rarememory.base.state import EMPTY
from rarememory.lookup.base import Lookup, with_their_marks
from rarememory.lookup.exact import tolerance
from rarememory.lookup.native_codes import CodeCache, Codes
from rarememory.native import empty_output, is_supported, library

_MOST_SLOTS = 2**31
_STALE, _UNSAFE = -1, -2
# Until the last key is read, a few times k candidates are held for each query.
_ROWS_AT_ONCE = 1024
# So many are worth a look whether there is anything to find: the first examples are learnt at once.
_MANY_ROWS = 64


class PairRead(NamedTuple):
    """What a read with labels finds, and what its gradient needs.

    Attributes:
        units: the queries at unit length.
        slots: the pair of each query, the nearer one first; EMPTY for none.
        scores: of the pair.
        values: of the pair.
        keys: of the pair, zero for none.
        slopes: what a row's part of the loss gains with each of the two scores.
        gradient: of the loss in the queries.
        loss: of all rows.
    """

    units: Float[Tensor, "batch key_dim"]
    slots: Int64[Tensor, "batch 2"]
    scores: Float[Tensor, "batch 2"]
    values: Int64[Tensor, "batch 2"]
    keys: Float[Tensor, "batch 2 key_dim"]
    slopes: Float[Tensor, "batch 2"]
    gradient: Float[Tensor, "batch key_dim"]
    loss: Float[Tensor, "*memories"]

    @classmethod
    def empty(cls, batch: int, key_dim: int, *memories: int) -> "PairRead":
        """Room for it; with a loss for each of several memories."""
        slots = empty_output(batch, 2, dtype=torch.int64)
        scores = empty_output(batch, 2, dtype=torch.float32)
        units = empty_output(batch, key_dim, dtype=torch.float32)
        keys = empty_output(batch, 2, key_dim, dtype=torch.float32)
        loss = empty_output(*memories, dtype=torch.float32)
        values, slopes, gradient = map(torch.empty_like, (slots, scores, units))
        return cls(units, slots, scores, values, keys, slopes, gradient, loss)


class NativeLookup(Lookup):
    """Exact search in C++ on a CPU, in float32, with torch's number of threads.

    It is part of the package where that was built with a C++ compiler, as the wheels are, and uses
    the best instruction set of the processor (see `rarememory.native`). Scores that are nearly
    equal are compared in float64.

    When the same keys are searched often, it reads codes of them, one byte for each number, and
    then only the keys that the codes cannot rule out: the result is the same. The codes are a cache
    of about a quarter of the keys' size, and of twice that once reads among some slots are asked
    for often: then only the codes of those slots are read. A write updates them; any other change
    of the keys that torch counts builds them again, and one that it does not count (`.data`, NumPy,
    a collective) does so when a sample of the codes shows it: at once where all keys have changed,
    and where one has within as many searches as there are slots. Copies and pickles do not contain
    them.

    Args:
        codes: whether to keep codes of the keys.

    Raises:
        ImportError: the package was built without a C++ compiler, or RAREMEMORY_NATIVE=0 switches
            these searches off.

    Example:
        >>> keys, values = torch.eye(3), torch.tensor([7, 7, 9])
        >>> queries, labels = torch.tensor([[0.6, 0.8, 0.0]]), torch.tensor([7])
        >>> NativeLookup().nearest_pair(queries, keys, values, labels)
        (tensor([1]), tensor([2]))
        >>> NativeLookup().why_not(queries, keys.half(), k=1)
        'native searches float32 keys, and these are torch.float16'
    """

    name = "native"
    reads_among = True

    def __init__(self, *, codes: bool = True) -> None:
        library()
        self._codes = CodeCache() if codes else None

    def uncached(self) -> "NativeLookup":
        return NativeLookup(codes=False)

    def why_not(self, queries: Tensor, keys: Tensor, k: int) -> str | None:
        if not keys.is_cpu:
            return f"native searches on the cpu, and the keys are on {keys.device}"
        if keys.dtype != torch.float32:
            return f"native searches float32 keys, and these are {keys.dtype}"
        if queries.dtype != torch.float32 or not queries.is_cpu:
            return (
                f"native takes float32 queries on the cpu, and these are {queries.dtype} on "
                f"{queries.device}"
            )
        if (slots := keys.shape[0]) >= _MOST_SLOTS:
            return f"native searches fewer than {_MOST_SLOTS} slots, and here are {slots}"
        try:
            # Checked at every search: a memory may be unpickled where there is no library.
            library()
        except ImportError as error:
            return str(error)
        return None

    def nearest(
        self,
        queries: Queries,
        keys: Keys,
        occupied: Occupied,
        k: int,
        *,
        among: Among | None = None,
    ) -> Neighbors:
        """As `Lookup.nearest`; with `among` the keys of other slots are not read."""
        (batch, key_dim), size = queries.shape, keys.shape[0]
        marks = occupied if among is None else among
        if batch == 1:
            marks = marks.reshape(-1)
        each = marks.dim() == 2
        if batch > _ROWS_AT_ONCE:
            parts = [
                self.nearest(some, keys, occupied, k, among=None if among is None else of_some)
                for some, of_some in with_their_marks(queries, marks, _ROWS_AT_ONCE)
            ]
            return torch.cat(parts)
        queries, keys = _contiguous(queries, keys)
        marks, k = marks.bool().contiguous(), min(k, size)
        if batch >= _MANY_ROWS and not marks.any():
            return torch.full((batch, k), EMPTY)
        slots = empty_output(batch, k, dtype=torch.int64)
        rows = (queries, batch, keys, size, key_dim)
        limits = (k, tolerance(keys), torch.get_num_threads())
        codes = None if each else self._codes_for(keys, batch, k, filtered=among is not None)
        if codes is None:
            library().nearest(*rows, marks, size if each else 0, *limits, slots)
        else:
            coded = (*rows, *codes.pointers, marks, *limits, *codes.sample())
            missed = library().nearest_coded(*coded, slots)
            if not _are_of_keys(codes, keys, batch, missed):
                return self.nearest(queries, keys, occupied, k, among=among)
        return slots

    def read(
        self,
        queries: Queries,
        keys: Keys,
        values: Values,
        k: int,
        among: Int64[Tensor, " labels"] | Bool[Tensor, " slots"] | None = None,
    ) -> tuple[Neighbors, Float[Tensor, "batch k"], Neighbors, Queries] | None:
        """The k nearest slots of queries of any length, in the one order, with scores and values.

        With `among`, labels or a mask, only occupied slots with one of them or in it are found. The
        last part of the result are the queries, of unit length. All is done in one call. None where
        the library cannot read these tensors, a query has no length to divide by, or there are so
        many queries that one call or several make no difference.
        """
        batch, size = queries.shape[0], keys.shape[0]
        given = () if among is None else (among,)
        if not 0 < batch < _MANY_ROWS or not is_supported(queries, keys, values, *given):
            return None
        k = min(k, size)
        slots = empty_output(batch, k, dtype=torch.int64)
        found, units = torch.empty_like(slots), torch.empty_like(queries)
        scores = torch.empty_like(slots, dtype=torch.float32)
        codes = self._codes_for(keys, batch, k, filtered=among is not None)
        missed = library().read(
            *(queries, batch, keys, size, keys.shape[1]),
            *((None, None, None, None) if codes is None else codes.pointers),
            *(values, *among_arguments(among), k, tolerance(keys), torch.get_num_threads()),
            *((None, 0) if codes is None else codes.sample()),
            *(units, slots, scores, found),
        )
        if missed == _UNSAFE:
            return None
        if not _are_of_keys(codes, keys, batch, missed):
            return self.read(queries, keys, values, k, among)
        return slots, scores, found, units

    def read_pair(
        self, queries: Queries, labels: Labels, keys: Keys, values: Values, margin: float
    ) -> PairRead | None:
        """The nearest pair of queries of any length, with the loss of all and its gradient.

        All is done in one call. None where a query has no length to divide by, or a label is none.
        """
        read, batch = PairRead.empty(*queries.shape), queries.shape[0]
        codes = self._codes_for(keys, batch, 1)
        missed = library().read_pair(
            *(queries, batch, keys, *keys.shape),
            *((None, None, None) if codes is None else codes.pointers[:3]),
            *(values, labels, margin, tolerance(keys), torch.get_num_threads()),
            *((None, 0) if codes is None else codes.sample()),
            *read,
        )
        if missed == _UNSAFE:
            return None
        if not _are_of_keys(codes, keys, batch, missed):
            return self.read_pair(queries, labels, keys, values, margin)
        return read

    def before_write(self, keys: Keys) -> None:
        if self._codes is not None:
            self._codes.before_write(keys)

    def after_write(self, keys: Keys, slots: SlotList) -> None:
        if self._codes is not None:
            self._codes.after_write(keys, slots)

    def nearest_pair(self, queries: Queries, keys: Keys, values: Values, labels: Labels) -> Pair:
        values, labels = values.long().contiguous(), labels.long().contiguous()
        if len(queries) > _ROWS_AT_ONCE:
            some = zip(queries.split(_ROWS_AT_ONCE), labels.split(_ROWS_AT_ONCE), strict=True)
            parts = [self.nearest_pair(part, keys, values, its) for part, its in some]
            positive, negative = map(torch.cat, zip(*parts, strict=True))
            return positive, negative
        queries, keys = _contiguous(queries, keys)
        positive, negative = torch.empty_like(labels), torch.empty_like(labels)
        batch, found = len(queries), (positive, negative)
        rows = (queries, batch, keys, *keys.shape)
        asked = (values, labels, tolerance(keys), torch.get_num_threads())
        codes = self._codes_for(keys, batch, 1)
        if codes is None:
            library().nearest_pair(*rows, *asked, *found)
        else:
            coded = (*rows, *codes.pointers[:3], *asked, *codes.sample(), *found)
            missed = library().nearest_pair_coded(*coded)
            if not _are_of_keys(codes, keys, batch, missed):
                return self.nearest_pair(queries, keys, values, labels)
        return positive, negative

    def _codes_for(self, keys: Keys, batch: int, k: int, *, filtered: bool = False) -> Codes | None:
        if self._codes is None:
            return None
        return self._codes.codes_for(keys, batch, k, filtered=filtered)


def among_arguments(among: Tensor | None) -> tuple[Tensor | None, int, Tensor | None]:
    """Labels, how many (-1 for no list of them), and a mask, as the library takes them."""
    if among is None or among.dtype == torch.bool:
        return None, -1, among
    return among, len(among), None


def _contiguous(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Both, contiguous.

    Raises:
        ValueError: one has another width than the other.
    """
    if queries.shape[1] != keys.shape[1]:
        raise ValueError(f"queries have width {queries.shape[1]}, and the keys {keys.shape[1]}")
    return queries.contiguous(), keys.contiguous()


def _are_of_keys(codes: Codes | None, keys: Tensor, batch: int, missed: int) -> bool:
    """Whether codes, if there were such, were those of the keys, so that the answer holds."""
    if missed == _STALE:
        record_uncounted_change(keys)
        return False
    if codes is not None and (missed or codes.missed):
        codes.count_misses(batch, missed)
    return True
