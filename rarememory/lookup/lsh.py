"""Approximate search by locality-sensitive hashing: only keys in a query's buckets are scored."""

import math
from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rarememory.base.shapes import Keys, Neighbors, Queries, SlotList
from rarememory.base.validation import check_count, check_not_negative, check_seed
from rarememory.lookup.exact import k_nearest
from rarememory.lookup.indexed import IndexedLookup
from rarememory.lookup.pair import SCORES_AT_ONCE
from rarememory.lookup.torch import TorchLookup

_MOST_BITS = 62
_MOST_BUCKETS = 2**16
_KEYS_PER_BUCKET = 8


class Buckets(NamedTuple):
    """Hash tables as sorted tensors, and the changes since they were sorted.

    Attributes:
        planes: normals of the hyperplanes, `n_bits` for each table.
        codes: of the keys in each table, ascending.
        slots: of those codes.
        gone: slots whose entries in the tables are out of date.
        fresh: slots changed since, which every query is compared with.
    """

    planes: Float[Tensor, "tables bits key_dim"]
    codes: Int64[Tensor, "tables stored"]
    slots: Int64[Tensor, "tables stored"]
    gone: Bool[Tensor, " slots"]
    fresh: Bool[Tensor, " slots"]


class LocalitySensitiveHashing(IndexedLookup):
    """Approximate search by random hyperplanes, in torch, on any device.

    h(x)_i = [r_i.x > 0] with r_i drawn from N(0, 1): two vectors at an angle t share a bit with
    probability 1 - t / pi (Charikar 2002, section 3). Kaiser et al. (2017, section 2) name it for
    memories too large to search exactly. In every table the keys of all buckets whose code differs
    from the query's in at most `radius` bits are scored exactly. A query with fewer than k keys
    there is searched exactly, so no result is short.

    Changed slots are not sorted into the tables at once. Every query is compared with them, so they
    are always found, until they are more than `rebuild_after` of all slots. With `radius = n_bits`
    every bucket is searched, and the result is exact.

    Args:
        n_bits: hyperplanes of a table, 1 to 62; if None, as many as give buckets of about 8 keys.
        n_tables: more raise the recall and the time.
        radius: bits in which a bucket may differ from the query's.
        seed: of the hyperplanes.
        rebuild_after: sort again when more than this share of the slots changed since last time.
        exact_below: with fewer occupied slots than this the search is exact.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> import torch
        >>> from rarememory import Memory
        >>> from rarememory.lookup import LocalitySensitiveHashing
        >>> lookup = LocalitySensitiveHashing(n_bits=8, n_tables=4)
        >>> memory = Memory(key_dim=8, memory_size=2000, k=5, lookup=lookup)
        >>> write = memory.write(torch.randn(2000, 8), torch.arange(2000))
        >>> recall = memory(memory.keys[:3])
        >>> recall.prediction
        tensor([0, 1, 2])
    """

    name = "locality-sensitive hashing"

    def __init__(
        self,
        n_bits: int | None = None,
        n_tables: int = 8,
        radius: int = 1,
        *,
        seed: int = 0,
        rebuild_after: float = 0.03,
        exact_below: int = 512,
    ) -> None:
        if n_bits is not None:
            check_count("n_bits", n_bits)
        check_count("n_tables", n_tables)
        check_not_negative("rebuild_after", rebuild_after)
        check_not_negative("exact_below", exact_below)
        check_seed(seed)
        if n_bits is not None and n_bits > _MOST_BITS:
            raise ValueError(
                f"n_bits must be at most {_MOST_BITS}, to fit into an integer, not {n_bits}"
            )
        most = n_bits or _MOST_BITS
        if not 0 <= radius <= most:
            raise ValueError(f"radius must be 0 to {most}, the bits of a bucket, not {radius}")
        buckets = sum(math.comb(most, flipped) for flipped in range(radius + 1))
        if buckets > _MOST_BUCKETS:
            raise ValueError(
                f"radius {radius} of {most} bits looks into {buckets} buckets of each table: "
                f"choose a smaller one, of at most {_MOST_BUCKETS}"
            )
        self.n_bits = n_bits
        self.n_tables = n_tables
        self.radius = radius
        self.seed = seed
        self.rebuild_after = rebuild_after
        self.exact_below = exact_below

    def build(self, keys: Keys, slots: SlotList) -> Buckets:
        planes = self._planes(keys, self.n_bits or _bits(len(slots)))
        codes, by_code = _codes(keys[slots], planes).sort(dim=1)
        none = torch.zeros(len(keys), dtype=torch.bool, device=keys.device)
        return Buckets(planes, codes, slots[by_code], none, none.clone())

    def add(self, index: Buckets, keys: Keys, slots: SlotList) -> None:
        index.fresh[slots] = True

    def remove(self, index: Buckets, slots: SlotList) -> None:
        index.fresh[slots] = False
        index.gone[slots] = True

    def search(self, index: Buckets, queries: Queries, keys: Keys, k: int) -> Neighbors:
        # At worst every key is in a bucket of every table.
        at_once = max(1, SCORES_AT_ONCE // (len(keys) * self.n_tables))
        return torch.cat([self._nearest(index, some, keys, k) for some in queries.split(at_once)])

    def _nearest(self, index: Buckets, queries: Tensor, keys: Tensor, k: int) -> Tensor:
        near = torch.zeros(len(queries), len(keys), dtype=torch.bool, device=keys.device)
        near[self._in_buckets(index, queries)] = True
        near &= ~index.gone
        few = near.sum(1) < k
        fresh = index.fresh.nonzero().squeeze(1)
        if len(fresh):
            occupied = torch.ones_like(fresh, dtype=torch.bool)
            found = fresh[TorchLookup().nearest(queries, keys[fresh], occupied, k)]
            near.scatter_(1, found, True)
        found = k_nearest(queries, keys, near, k)
        if few.any():
            stored = torch.zeros_like(index.gone).index_fill_(0, index.slots[0], True)
            occupied = stored & ~index.gone | index.fresh
            found[few] = TorchLookup().nearest(queries[few], keys, occupied, k)
        return found

    def _in_buckets(self, index: Buckets, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs of a query's row and a slot in one of its buckets, as two tensors."""
        flips = self._flips(index.planes)
        wanted = _codes(queries, index.planes).unsqueeze(2) ^ flips
        wanted = wanted.flatten(1)  # [tables, batch * flips]
        first = torch.searchsorted(index.codes, wanted)
        counts = (torch.searchsorted(index.codes, wanted, right=True) - first).flatten()
        tables = torch.arange(self.n_tables, device=wanted.device).unsqueeze(1)
        first = (first + tables * index.codes.shape[1]).flatten()
        # The indices first, first + 1, ... of every bucket, one bucket after the other.
        before = counts.cumsum(0) - counts
        places = torch.arange(int(counts.sum()), device=counts.device)
        places += (first - before).repeat_interleave(counts)
        rows = torch.arange(len(queries), device=counts.device)
        rows = rows.repeat_interleave(len(flips)).repeat(self.n_tables)
        return rows.repeat_interleave(counts), index.slots.flatten()[places]

    def _planes(self, keys: Tensor, n_bits: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        planes = torch.randn(self.n_tables, n_bits, keys.shape[1], generator=generator)
        return planes.to(keys.device)

    def _flips(self, planes: Tensor) -> Tensor:
        """Masks: a code XOR one of them is the code of a bucket within the radius."""
        bits = [1 << bit for bit in range(planes.shape[1])]
        sizes = range(self.radius + 1)
        masks = [sum(chosen) for size in sizes for chosen in combinations(bits, size)]
        return torch.tensor(masks, device=planes.device)


def _bits(stored: int) -> int:
    """log2(stored / _KEYS_PER_BUCKET), at least 1."""
    return max(1, round(math.log2(stored / _KEYS_PER_BUCKET)))


def _codes(rows: Tensor, planes: Tensor) -> Tensor:
    """The bucket of every row in every table, [tables, rows]."""
    bits = torch.einsum("tbd,nd->tnb", planes, rows.float()) > 0
    return (bits.long() << torch.arange(planes.shape[1], device=rows.device)).sum(2)
