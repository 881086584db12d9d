"""The k nearest from the bin maxima: choose candidates, score them exactly, rescue rows with many.

A candidate is written as one int64, its score in the high half and what is left of the slots above
it in the low half, so that the greatest numbers are the nearest in the one order, ties included.
"""

from typing import no_type_check

import triton
import triton.language as tl

from rarememory.lookup.triton_kernels import LOWEST, NOTHING, appended, exact_scores

# Lower than any score, and in the low half what slot EMPTY comes to.
NO_CANDIDATE = tl.constexpr(-(2**63) + 2**32 - 1)
_LAST = tl.constexpr(2**32 - 2)


@triton.jit
@no_type_check
def choose_candidates(
    maxima_ptr,  # [1 or 2, rows, bins]
    singles_ptr,  # [rows, room_for_singles]
    wholes_ptr,  # [rows, room_for_wholes]
    counts_ptr,  # [rows, 2]
    floors_ptr,  # [rows]
    rows,
    bins,
    window,
    k,
    low_bits,
    room_for_singles,
    room_for_wholes,
    SECOND: tl.constexpr,
    ALL_BINS: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
):
    """Whatever scores within rounding of the k-th best bin, a lower bound of the k-th best slot.

    A bin whose runner-up does too may hide more than its best: it is a candidate as a whole.
    """
    row = tl.program_id(0).to(tl.int64)
    every = tl.arange(0, ALL_BINS)
    maxima = tl.load(maxima_ptr + row * bins + every, mask=every < bins, other=NOTHING)
    # Halving brackets the k-th highest bin closely enough: too low a floor adds candidates only.
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
            singles = appended(
                singles_ptr + row * room_for_singles,
                tile * bins + bin,
                single,
                singles,
                room_for_singles,
            )
        wholes = appended(wholes_ptr + row * room_for_wholes, bin, whole, wholes, room_for_wholes)
    tl.store(counts_ptr + 2 * row, singles)
    tl.store(counts_ptr + 2 * row + 1, wholes)
    tl.store(floors_ptr + row, floor)


@triton.jit
@no_type_check
def score_candidates(
    queries_ptr,  # [rows, KEY_DIM]
    keys_ptr,  # [slots, KEY_DIM]
    occupied_ptr,  # [slots]
    singles_ptr,  # [rows, room_for_singles]
    wholes_ptr,  # [rows, room_for_wholes]
    counts_ptr,  # [rows, 2]
    candidates_ptr,  # [rows, room]
    slots,
    bins,
    tiles,
    room_for_singles,
    room_for_wholes,
    room,
    KEY_DIM: tl.constexpr,
    BLOCK_CANDIDATES: tl.constexpr,
    BLOCK_DIMS: tl.constexpr,
):
    """The candidates of one row: first the single slots, then every slot of the whole bins."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK_CANDIDATES + tl.arange(0, BLOCK_CANDIDATES)
    singles = tl.minimum(tl.load(counts_ptr + 2 * row), room_for_singles)
    wholes = tl.minimum(tl.load(counts_ptr + 2 * row + 1), room_for_wholes)
    single = place < singles
    of_bin = place - room_for_singles
    in_bin = (of_bin >= 0) & (of_bin < wholes * tiles)
    bin = tl.load(wholes_ptr + row * room_for_wholes + of_bin // tiles, mask=in_bin, other=0)
    slot = of_bin % tiles * bins + bin
    slot = tl.where(
        single, tl.load(singles_ptr + row * room_for_singles + place, mask=single, other=0), slot
    )
    there = single | (in_bin & (slot < slots))
    there = there & (tl.load(occupied_ptr + slot, mask=there, other=0) != 0)
    packed = tl.full([BLOCK_CANDIDATES], NO_CANDIDATE, tl.int64)
    # Most rows leave most of the room empty.
    if tl.max(there.to(tl.int32), 0) > 0:
        packed = _packed(queries_ptr + row * KEY_DIM, keys_ptr, slot, there, KEY_DIM, BLOCK_DIMS)
    tl.store(candidates_ptr + row * room + place, packed, mask=place < room)


@triton.jit
@no_type_check
def rescue(
    queries_ptr,  # [rows, KEY_DIM]
    keys_ptr,  # [slots, KEY_DIM]
    occupied_ptr,  # [slots]
    maxima_ptr,  # [1 or 2, rows, bins]
    counts_ptr,  # [rows, 2]
    floors_ptr,  # [rows]
    candidates_ptr,  # [rows, room]
    slots,
    bins,
    tiles,
    room_for_singles,
    room_for_wholes,
    room,
    KEY_DIM: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_DIMS: tl.constexpr,
):
    """For a row with more candidates than there was room for: the best BLOCK_K of each part.

    Every slot of every bin above the floor is scored, part by part, and the parts' best take the
    place of the row's candidates. For any other row there is nothing to do.
    """
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    parts = tl.num_programs(1)
    singles = tl.load(counts_ptr + 2 * row)
    wholes = tl.load(counts_ptr + 2 * row + 1)
    if (singles > room_for_singles) | (wholes > room_for_wholes):
        floor = tl.load(floors_ptr + row)
        kept = tl.full([BLOCK_K], NO_CANDIDATE, tl.int64)
        for start in range(part * BLOCK_K, bins, parts * BLOCK_K):
            bin = start + tl.arange(0, BLOCK_K)
            first = tl.load(maxima_ptr + row * bins + bin, mask=bin < bins, other=NOTHING)
            near = first >= floor
            for tile in range(0, tiles):
                slot = tile * bins + bin
                there = near & (slot < slots)
                there = there & (tl.load(occupied_ptr + slot, mask=there, other=0) != 0)
                packed = _packed(
                    queries_ptr + row * KEY_DIM, keys_ptr, slot, there, KEY_DIM, BLOCK_DIMS
                )
                # Later tiles rarely have anything better, and sorting costs more than scoring.
                if tl.max(packed, 0) > tl.min(kept, 0):
                    # Two sorted lists held against each other, one backwards, keep the best half.
                    kept = tl.maximum(tl.sort(kept, descending=True), tl.sort(packed))
        at = candidates_ptr + row * room
        tl.store(at + part * BLOCK_K + tl.arange(0, BLOCK_K), kept)
        for start in range((parts + part) * BLOCK_K, room, parts * BLOCK_K):
            rest = start + tl.arange(0, BLOCK_K)
            tl.store(at + rest, tl.full([BLOCK_K], NO_CANDIDATE, tl.int64), mask=rest < room)


@triton.jit
@no_type_check
def _packed(query_ptr, keys_ptr, slot, there, KEY_DIM: tl.constexpr, BLOCK_DIMS: tl.constexpr):
    """Score and slot as one number in the one order: higher score first, then lower slot."""
    scores = exact_scores(query_ptr, keys_ptr, slot, there, KEY_DIM, BLOCK_DIMS)
    # A query that is not finite has no score that is.
    there = there & (tl.abs(scores) < float("inf"))
    # A sum that begins with 0 is never -0, so no two numbers are one score.
    bits = scores.to(tl.int32, bitcast=True)
    # Negative floats run backwards when read as integers.
    bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    packed = (bits.to(tl.int64) << 32) | (_LAST - slot.to(tl.int64))
    return tl.where(there, packed, NO_CANDIDATE)
