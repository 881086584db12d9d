"""The sizes of the Triton search: tiles, bins, lists of candidates, and the error of a score.

Nothing here uses a tensor. To tune it for another chip, change `_tile` and `_bins_wanted`.
"""

import math
from typing import NamedTuple

import torch

WORKSPACE = 2**26
"""Bin maxima held at once, 256 MiB of float32; larger batches are searched in parts."""

BLOCK_CANDIDATES = 32
"""Slots that one program scores exactly at once, and candidates that it sorts."""

MOST_BINS = 2**15
"""So many bin maxima of a row fit the registers of one program."""

MOST_NEIGHBOURS = 1024

# Up to this many neighbours, scoring whole bins is quicker than keeping runners-up.
_FEW = 16
# A small memory too has bins of several slots, so that no [batch, slots] matrix is stored.
_LEAST_TILES = 4
# Capacity for slots of whole bins, at least, so that no row of a small memory overflows.
_LEAST_CAPACITY = 1024
# More would start many programs without work: few rows overflow.
_MOST_PARTS = 8
# There is room for about three times as many candidates as most rows have.
_MOST_OF_TYPICAL = 3
# Programs with little work for each processor.
_PROGRAMS = 8
# With as many groups of bins as this, their maxima are nearly as good as those of the bins.
_LEAST_GROUPS = 1024


class Chip(NamedTuple):
    """A GPU: its multiprocessors, and the major version of its compute capability."""

    processors: int
    generation: int


H200 = Chip(processors=132, generation=9)


class Tile(NamedTuple):
    """The block that one program of the streaming pass multiplies, its warps and its stages.

    `slots_first` is how it multiplies: keys by queries, and not queries by keys.
    """

    rows: int
    slots: int
    dims: int
    warps: int
    stages: int
    slots_first: bool = False


class Plan(NamedTuple):
    """The sizes of one search. Slot s is number s // bins of bin s % bins.

    Attributes:
        k: neighbours wanted.
        tile: of the streaming pass.
        bins: maxima of one row and plane.
        tiles: slots of one bin.
        second: whether a bin keeps the number of its best slot, and the score of its runner-up.
        singles: capacity for candidates that are single slots.
        wholes: capacity for bins of which every slot is a candidate.
        window: a slot whose streamed score is lower than another's by this may still be nearer.
    """

    k: int
    tile: Tile
    bins: int
    tiles: int
    second: bool
    singles: int
    wholes: int
    window: float

    @property
    def low_bits(self) -> int:
        """Mask of the low bits of a score that hold the number of the slot in its bin."""
        return (1 << _tile_bits(self.tiles, self.second)) - 1

    @property
    def block_bins(self) -> int:
        """Bins of one row that a program lists at once."""
        return min(2**12 if self.second else 2**13, power_of_two(self.bins))

    @property
    def groups(self) -> int:
        """Groups of bins, of which the k best are looked for first."""
        return min(power_of_two(self.bins), max(_LEAST_GROUPS, 4 * power_of_two(self.k)))

    @property
    def row_warps(self) -> int:
        """Warps of a program that looks through a whole row of bins."""
        return max(4, min(16, power_of_two(self.bins) // 1024))

    @property
    def block_k(self) -> int:
        """Candidates that `rescore` keeps, and bins that it reads at once: a power of two."""
        return max(64, power_of_two(self.k))

    @property
    def parts(self) -> int:
        """Programs that `rescore` one row."""
        return min(_MOST_PARTS, self.capacity // self.block_k)

    def programs(self, rows: int, processors: int) -> int:
        """Programs that share out the candidates of each of so many rows.

        One for every block that there is room for, as long as the processors run nearly all at
        once; else one for every block that most rows have.
        """
        blocks = math.ceil(self.capacity / BLOCK_CANDIDATES)
        return max(1, blocks // _MOST_OF_TYPICAL, min(blocks, _PROGRAMS * processors // rows))

    @property
    def capacity(self) -> int:
        """Candidates of one row."""
        return max(self.singles + self.wholes * self.tiles, self.block_k)

    @property
    def may_overflow(self) -> bool:
        """Whether a row can have more candidates than the capacity."""
        return self.wholes < self.bins or (self.second and self.singles < self.bins)


def make_plan(
    batch: int,
    slots: int,
    key_dim: int,
    k: int,
    streamed: torch.dtype,
    *,
    pair: bool = False,
    few: bool = False,
    chip: Chip = H200,
) -> Plan:
    """The plan of one search; `few` is one that does not read the keys of every slot."""
    second = k > _FEW
    planes = "second" if second else "pair" if pair else "one"
    tile = _tile(batch, key_dim, streamed, chip, "few" if few else planes)
    bins = _bins(_bins_wanted(k), batch, slots, tile, chip)
    tiles = math.ceil(slots / bins)
    window = 2 * error(key_dim, streamed, _tile_bits(tiles, second))
    singles, wholes = (0, bins) if pair or k == 1 else _capacities(k, bins, tiles, window)
    return Plan(k, tile, bins, tiles, second, min(singles, bins), min(wholes, bins), window)


def error(key_dim: int, streamed: torch.dtype, tile_bits: int) -> float:
    """The largest difference of a streamed score and the exact score, for unit vectors.

    By Cauchy-Schwarz, rounding each number with relative error u changes the cosine by at most u
    for the query and u for the key. float32 is rounded to tf32, which drops 13 bits. A sum of
    key_dim products, in any order and rounded towards zero, has a relative error of at most
    key_dim / 2^23 (Higham 2002, section 3.1). The exact score is rounded once.
    """
    rounded = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7, torch.float32: 2.0**-9}
    # Below 2^-14 the spacing of float16 is constant: an absolute error.
    product = rounded[streamed] + (2 * math.sqrt(key_dim) + key_dim) * 2.0**-25
    # The length of a unit vector has a rounding error of its own: the factor 1.02.
    return 1.02 * (product + (key_dim + 8) * 2.0**-23 + 2.0 ** (tile_bits - 23))


def power_of_two(number: int) -> int:
    """The least power of two that is not below the number."""
    return 1 << (number - 1).bit_length()


def _tile(batch: int, key_dim: int, streamed: torch.dtype, chip: Chip, search: str = "few") -> Tile:
    """A tile that fits registers and shared memory (tests/lookup/test_triton_compiles.py).

    `search` is what it is for: "one" maximum of a bin, also its "second", the "pair", or "few" keys
    of many.
    """
    size = streamed.itemsize
    whole = max(16, power_of_two(key_dim))
    # Queries that fit are loaded once for the whole pass; else in slabs of the key width.
    fits = whole * size <= (1024 if chip.generation >= 9 or batch <= 16 else 512)
    dims = whole if fits else 128 // size
    slots = 64 if whole * size <= 256 else 32 if dims < 512 or batch <= 16 else 16
    most_stages = 4 if chip.generation >= 9 else 3
    stages = max(2, min(most_stages, 1 + 2**16 // (slots * dims * size)))
    if batch <= 16:
        return Tile(16, slots, dims, 4, stages)
    if batch <= 64 or size > 2 or dims >= 512:
        return Tile(64, slots, dims, 4, stages)
    # The fastest of 81 on an H200, for 256 queries of a million keys of width 128.
    if chip.generation >= 9 and whole * size <= 256 and search == "one":
        return Tile(128, slots, dims, 4, 3)
    if chip.generation >= 9 and whole * size <= 256 and search == "second":
        return Tile(128, 128, dims, 8, 3, slots_first=True)
    return Tile(128, slots, dims, 8, stages)


def _tile_bits(tiles: int, second: bool) -> int:
    return (tiles - 1).bit_length() if second else 0


def _bins_wanted(k: int) -> int:
    return 2**14 if k <= 256 else MOST_BINS


def _bins(wanted: int, batch: int, slots: int, tile: Tile, chip: Chip) -> int:
    """As many bins as wanted, or so many that nearly all processors have two programs.

    A power of two, unless the memory is small: a program holds a row of bins in as many registers.
    """
    row_blocks = max(1, math.ceil(batch / tile.rows))
    groups = max(1, wanted // tile.slots)
    while groups * row_blocks < 1.9 * chip.processors and 2 * groups * tile.slots <= MOST_BINS:
        groups *= 2
    return tile.slots * max(1, min(groups, slots // (_LEAST_TILES * tile.slots)))


def _capacities(k: int, bins: int, tiles: int, window: float) -> tuple[int, int]:
    """Capacities for single slots and whole bins: for k neighbours, and those nearly as near.

    Of n slots in random bins, about n^2 / (2 bins) bins hold two; the capacity is twice that.
    """
    least = _LEAST_CAPACITY // tiles
    if k <= _FEW:
        return 0, max(least, k + _FEW)
    near = 3 * k // 2 if window < 2**-7 else 3 * k
    return power_of_two(near), max(least, 8 + near * near // bins)
