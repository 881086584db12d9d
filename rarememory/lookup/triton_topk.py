"""The k nearest slots from the bin maxima: choose candidates, score them exactly.

A candidate is one int64: its score in the high half, and 2^32 - 2 - slot in the low half, so that
larger numbers are nearer, and the lower slot wins a tie.
"""

from typing import no_type_check

import triton
import triton.language as tl

from rarememory.lookup.triton_kernels import LOWEST, NOTHING, append_where, exact_scores

# Lower than any score; its low half stands for slot EMPTY.
NO_CANDIDATE = tl.constexpr(-(2**63) + 2**32 - 1)
_LAST = tl.constexpr(2**32 - 2)


@triton.jit
@no_type_check
def choose_candidates(
    maxima_ptr,  # [1 or 2, rows, bins]
    singles_ptr,  # [rows, max_singles]
    wholes_ptr,  # [rows, max_wholes]
    counts_ptr,  # [rows, 2]
    floors_ptr,  # [rows]
    rows,
    bins,
    window,
    k,
    low_bits,
    max_singles,
    max_wholes,
    SECOND: tl.constexpr,
    ALL_BINS: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
):
    """List all bins whose maximum is within rounding of the k-th best bin's, or above it.

    The k-th best bin is a lower bound for the k-th best slot. With SECOND a bin's best slot is a
    single candidate, unless its runner-up is within rounding too: then the whole bin is one.
    """
    row = tl.program_id(0).to(tl.int64)
    every = tl.arange(0, ALL_BINS)
    maxima = tl.load(maxima_ptr + row * bins + every, mask=every < bins, other=NOTHING)
    # Bisection for the k-th highest bin. A floor that is too low only adds candidates.
    low = LOWEST + 0.0
    high = -LOWEST + 0.0
    for _ in range(18):
        middle = (low + high) / 2
        enough = tl.sum((maxima >= middle).to(tl.int32), 0) >= k
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
    floor = low - window
    singles = 0
    wholes = 0
    for start in range(0, bins, BLOCK_BINS):
        bin = start + tl.arange(0, BLOCK_BINS)
        there = bin < bins
        first = tl.load(maxima_ptr + row * bins + bin, mask=there, other=NOTHING)
        whole = first >= floor
        if SECOND:
            second = tl.load(maxima_ptr + (rows + row) * bins + bin, mask=there, other=NOTHING)
            tile = first.to(tl.int32, bitcast=True) & low_bits
            single = whole & (second < floor)
            whole = whole & (second >= floor)
            singles = append_where(
                singles_ptr + row * max_singles,
                tile * bins + bin,
                single,
                singles,
                max_singles,
            )
        wholes = append_where(wholes_ptr + row * max_wholes, bin, whole, wholes, max_wholes)
    tl.store(counts_ptr + 2 * row, singles)
    tl.store(counts_ptr + 2 * row + 1, wholes)
    tl.store(floors_ptr + row, floor)


@triton.jit
@no_type_check
def score_candidates(
    queries_ptr,  # [rows, KEY_DIM]
    keys_ptr,  # [slots, KEY_DIM]
    marks_ptr,  # [slots] or [rows, slots]
    singles_ptr,  # [rows, max_singles]
    wholes_ptr,  # [rows, max_wholes]
    counts_ptr,  # [rows, 2]
    candidates_ptr,  # [rows, capacity]
    slots,
    bins,
    tiles,
    stride,
    max_singles,
    max_wholes,
    capacity,
    KEY_DIM: tl.constexpr,
    BLOCK_CANDIDATES: tl.constexpr,
    BLOCK_DIMS: tl.constexpr,
):
    """The candidates of one row: first the single slots, then every slot of the whole bins."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK_CANDIDATES + tl.arange(0, BLOCK_CANDIDATES)
    singles = tl.minimum(tl.load(counts_ptr + 2 * row), max_singles)
    wholes = tl.minimum(tl.load(counts_ptr + 2 * row + 1), max_wholes)
    single = place < singles
    of_bin = place - max_singles
    in_bin = (of_bin >= 0) & (of_bin < wholes * tiles)
    bin = tl.load(wholes_ptr + row * max_wholes + of_bin // tiles, mask=in_bin, other=0)
    slot = of_bin % tiles * bins + bin
    slot = tl.where(
        single, tl.load(singles_ptr + row * max_singles + place, mask=single, other=0), slot
    )
    there = single | (in_bin & (slot < slots))
    there = there & (tl.load(marks_ptr + row * stride + slot, mask=there, other=0) != 0)
    packed = tl.full([BLOCK_CANDIDATES], NO_CANDIDATE, tl.int64)
    # Most blocks of most rows have no candidate.
    if tl.max(there.to(tl.int32), 0) > 0:
        packed = _pack(queries_ptr + row * KEY_DIM, keys_ptr, slot, there, KEY_DIM, BLOCK_DIMS)
    tl.store(candidates_ptr + row * capacity + place, packed, mask=place < capacity)


@triton.jit
@no_type_check
def rescore(
    queries_ptr,  # [rows, KEY_DIM]
    keys_ptr,  # [slots, KEY_DIM]
    marks_ptr,  # [slots] or [rows, slots]
    maxima_ptr,  # [1 or 2, rows, bins]
    counts_ptr,  # [rows, 2]
    floors_ptr,  # [rows]
    candidates_ptr,  # [rows, capacity]
    slots,
    bins,
    tiles,
    stride,
    max_singles,
    max_wholes,
    capacity,
    KEY_DIM: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_DIMS: tl.constexpr,
):
    """For rows with more candidates than the capacity: the best BLOCK_K of each part of the bins.

    Every slot of every bin above the floor is scored exactly, and the best of each part replace the
    row's candidates. Other rows are left as they are.
    """
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    parts = tl.num_programs(1)
    singles = tl.load(counts_ptr + 2 * row)
    wholes = tl.load(counts_ptr + 2 * row + 1)
    if (singles > max_singles) | (wholes > max_wholes):
        floor = tl.load(floors_ptr + row)
        kept = tl.full([BLOCK_K], NO_CANDIDATE, tl.int64)
        for start in range(part * BLOCK_K, bins, parts * BLOCK_K):
            bin = start + tl.arange(0, BLOCK_K)
            first = tl.load(maxima_ptr + row * bins + bin, mask=bin < bins, other=NOTHING)
            near = first >= floor
            for tile in range(0, tiles):
                slot = tile * bins + bin
                there = near & (slot < slots)
                there = there & (tl.load(marks_ptr + row * stride + slot, mask=there, other=0) != 0)
                packed = _pack(
                    queries_ptr + row * KEY_DIM, keys_ptr, slot, there, KEY_DIM, BLOCK_DIMS
                )
                # Later tiles rarely have a better slot, and sorting takes longer than scoring.
                if tl.max(packed, 0) > tl.min(kept, 0):
                    # The maxima of a descending and an ascending list are the best half of both.
                    kept = tl.maximum(tl.sort(kept, descending=True), tl.sort(packed))
        at = candidates_ptr + row * capacity
        tl.store(at + part * BLOCK_K + tl.arange(0, BLOCK_K), kept)
        for start in range((parts + part) * BLOCK_K, capacity, parts * BLOCK_K):
            rest = start + tl.arange(0, BLOCK_K)
            tl.store(at + rest, tl.full([BLOCK_K], NO_CANDIDATE, tl.int64), mask=rest < capacity)


@triton.jit
@no_type_check
def _pack(query_ptr, keys_ptr, slot, there, KEY_DIM: tl.constexpr, BLOCK_DIMS: tl.constexpr):
    """Score and slot as one number: larger for a higher score, then for a lower slot."""
    scores = exact_scores(query_ptr, keys_ptr, slot, there, KEY_DIM, BLOCK_DIMS)
    # A query that is not finite finds nothing.
    there = there & (tl.abs(scores) < float("inf"))
    # A sum that begins with 0 is never -0, so equal scores have equal bits.
    bits = scores.to(tl.int32, bitcast=True)
    # Read as integers, negative floats are in the opposite order.
    bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    packed = (bits.to(tl.int64) << 32) | (_LAST - slot.to(tl.int64))
    return tl.where(there, packed, NO_CANDIDATE)
