"""The k nearest slots from the bin maxima: choose candidates, score them exactly, sort them.

A candidate is one int64: its score in the high half, and 2^32 - 2 - slot in the low half, so that
larger numbers are nearer, and the lower slot wins a tie.
"""

from typing import no_type_check

import triton
import triton.language as tl

from rarememory.lookup.triton_kernels import (
    EMPTY,
    LOWEST,
    NOTHING,
    exact_scores,
    is_marked,
)

# Lower than any score; its low half stands for slot EMPTY.
NO_CANDIDATE = tl.constexpr(-(2**63) + 2**32 - 1)
_LAST = tl.constexpr(2**32 - 2)
# Floors that are tried at once, and how often: 4 / 16^4 is far below what a score is rounded by.
_FLOORS = tl.constexpr(16)
_ROUNDS = tl.constexpr(4)


@triton.jit(do_not_specialize=["rows"])
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
    GROUPS: tl.constexpr,
):
    """List the bins whose maximum is above a floor for the k-th best slot, or within rounding.

    The floor is the k-th best maximum of groups of bins. With SECOND a bin's best slot is a single
    candidate, unless its runner-up is within rounding too: then the whole bin is one.
    """
    row = tl.program_id(0).to(tl.int64)
    maxima_ptr += row * bins
    every = tl.arange(0, ALL_BINS)
    maxima = tl.load(maxima_ptr + every, mask=every < bins, other=NOTHING)
    # Bins that lie together, which in a memory with few slots are the only ones, are in different
    # groups.
    best = tl.max(tl.reshape(maxima, [ALL_BINS // GROUPS, GROUPS]), 0)
    # The interval that holds the k-th best is cut in 16 each time. A floor that is too low only
    # adds candidates.
    low = LOWEST + 0.0
    width = -2.0 * LOWEST
    steps = tl.arange(0, _FLOORS).to(tl.float32)
    for _ in range(_ROUNDS):
        width = width / _FLOORS
        above = best[:, None] >= (low + width * steps)[None, :]
        enough = tl.sum(above.to(tl.int32), 0) >= k
        low += width * tl.maximum(tl.sum(enough.to(tl.int32), 0) - 1, 0)
    floor = low - window
    # Both are counted in one sum: the single slots in its low half, the whole bins in its high one.
    count = 0
    for start in range(0, bins, BLOCK_BINS):
        bin = start + tl.arange(0, BLOCK_BINS)
        there = bin < bins
        first = tl.load(maxima_ptr + bin, mask=there, other=NOTHING)
        second = first
        if SECOND:
            plane = rows.to(tl.int64) * bins
            second = tl.load(maxima_ptr + plane + bin, mask=there, other=NOTHING)
        single = (first >= floor) & (second < floor)
        whole = second >= floor
        flags = single.to(tl.int32) + (whole.to(tl.int32) << 16)
        place = count + tl.cumsum(flags, 0) - flags
        if SECOND:
            at = place & 0xFFFF
            slot = (first.to(tl.int32, bitcast=True) & low_bits) * bins + bin
            listed = single & (at < max_singles)
            tl.store(singles_ptr + row * max_singles + at, slot, mask=listed)
        at = (place >> 16) & 0xFFFF
        tl.store(wholes_ptr + row * max_wholes + at, bin, mask=whole & (at < max_wholes))
        count += tl.sum(flags, 0)
    tl.store(counts_ptr + 2 * row, count & 0xFFFF)
    tl.store(counts_ptr + 2 * row + 1, (count >> 16) & 0xFFFF)
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
    """The candidates of one row: first the single slots, then every slot of the whole bins.

    Rows that have more of them than there is room for are left to `rescore`.
    """
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1) * BLOCK_CANDIDATES
    singles = tl.load(counts_ptr + 2 * row)
    wholes = tl.load(counts_ptr + 2 * row + 1)
    count = singles + wholes * tiles
    if (singles > max_singles) | (wholes > max_wholes):
        count = 0
    for start in range(part, count, tl.num_programs(1) * BLOCK_CANDIDATES):
        place = start + tl.arange(0, BLOCK_CANDIDATES)
        single = place < singles
        in_bin = (place >= singles) & (place < count)
        of_bin = place - singles
        bin = tl.load(wholes_ptr + row * max_wholes + of_bin // tiles, mask=in_bin, other=0)
        slot = tl.load(singles_ptr + row * max_singles + place, mask=single, other=0)
        slot = tl.where(single, slot, of_bin % tiles * bins + bin)
        there = (single | in_bin) & (slot < slots)
        marks = tl.load(marks_ptr + row * stride + slot, mask=there, other=0)
        there = there & is_marked(marks)
        packed = _pack(queries_ptr + row * KEY_DIM, keys_ptr, slot, there, KEY_DIM, BLOCK_DIMS)
        tl.store(candidates_ptr + row * capacity + place, packed, mask=place < count)


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

    Every slot of every bin above the floor is scored exactly, and the best of each part are the
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
                marks = tl.load(marks_ptr + row * stride + slot, mask=there, other=0)
                there = there & is_marked(marks)
                packed = _pack(
                    queries_ptr + row * KEY_DIM, keys_ptr, slot, there, KEY_DIM, BLOCK_DIMS
                )
                # Later tiles rarely have a better slot, and sorting takes longer than scoring.
                if tl.max(packed, 0) > tl.min(kept, 0):
                    # The maxima of a descending and an ascending list are the best half of both.
                    kept = tl.maximum(tl.sort(kept, descending=True), tl.sort(packed))
        at = candidates_ptr + row * capacity
        tl.store(at + part * BLOCK_K + tl.arange(0, BLOCK_K), kept)


@triton.jit
@no_type_check
def sort_candidates(
    candidates_ptr,  # [rows, capacity]
    counts_ptr,  # [rows, 2]
    found_ptr,  # [rows, k]
    scores_ptr,  # [rows, k]
    found_values_ptr,  # [rows, k], with READ
    values_ptr,  # [slots], with READ
    tiles,
    max_singles,
    max_wholes,
    rescored,
    capacity,
    k,
    READ: tl.constexpr,
    BLOCK_CANDIDATES: tl.constexpr,
    OTHERS: tl.constexpr,
):
    """The k best candidates of one row, in order: each goes where as many are as are better.

    Then EMPTY. With READ also their values.
    """
    row = tl.program_id(0).to(tl.int64)
    candidates_ptr += row * capacity
    singles = tl.load(counts_ptr + 2 * row)
    wholes = tl.load(counts_ptr + 2 * row + 1)
    count = singles + wholes * tiles
    if (singles > max_singles) | (wholes > max_wholes):
        count = rescored
    part = tl.program_id(1) * BLOCK_CANDIDATES
    for start in range(part, count, tl.num_programs(1) * BLOCK_CANDIDATES):
        at = start + tl.arange(0, BLOCK_CANDIDATES)
        mine = tl.load(candidates_ptr + at, mask=at < count, other=NO_CANDIDATE)
        better = tl.zeros([BLOCK_CANDIDATES, OTHERS], tl.int32)
        for other_start in range(0, count, OTHERS):
            other_at = other_start + tl.arange(0, OTHERS)
            other = tl.load(candidates_ptr + other_at, mask=other_at < count, other=NO_CANDIDATE)
            better += (other[None, :] > mine[:, None]).to(tl.int32)
        rank = tl.sum(better, 1)
        put = (mine != NO_CANDIDATE) & (rank < k)
        slot = _LAST - (mine & 0xFFFFFFFF)
        at = row * k + rank
        tl.store(found_ptr + at, slot, mask=put)
        tl.store(scores_ptr + at, _score(mine), mask=put)
        if READ:
            tl.store(found_values_ptr + at, tl.load(values_ptr + slot, mask=put), mask=put)
    if part == 0:
        filled = 0
        for start in range(0, count, BLOCK_CANDIDATES):
            at = start + tl.arange(0, BLOCK_CANDIDATES)
            other = tl.load(candidates_ptr + at, mask=at < count, other=NO_CANDIDATE)
            filled += tl.sum((other != NO_CANDIDATE).to(tl.int32), 0)
        nothing = tl.full([BLOCK_CANDIDATES], EMPTY, tl.int64)
        for start in range(filled, k, BLOCK_CANDIDATES):
            rest = start + tl.arange(0, BLOCK_CANDIDATES)
            at = row * k + rest
            tl.store(found_ptr + at, nothing, mask=rest < k)
            lowest = tl.full([BLOCK_CANDIDATES], -float("inf"), tl.float32)
            tl.store(scores_ptr + at, lowest, mask=rest < k)
            if READ:
                tl.store(found_values_ptr + at, nothing, mask=rest < k)


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


@triton.jit
@no_type_check
def _score(packed):
    bits = (packed >> 32).to(tl.int32)
    bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return bits.to(tl.float32, bitcast=True)
