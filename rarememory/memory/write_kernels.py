"""A write in Triton: which slots are given up first, and the rows put into their slots.

A slot that goes before another has a higher priority or, if those are equal, is the lower one.
"""

from typing import no_type_check

import triton
import triton.language as tl

from rarememory.lookup.triton_kernels import EMPTY

_GAMMA = tl.constexpr(0x9E3779B97F4A7C15)
_FIRST_FACTOR = tl.constexpr(0xBF58476D1CE4E5B9)
_SECOND_FACTOR = tl.constexpr(0x94D049BB133111EB)
_NOISE_STEP = tl.constexpr(2.0**-52)
_SKEW = tl.constexpr(37)
_LARGEST = tl.constexpr(1.7976931348623157e308)


@triton.jit
@no_type_check
def first_of_bins(
    values_ptr,  # [slots]
    written_ptr,  # [slots]
    clock_ptr,  # []
    seed_ptr,  # []
    priorities_ptr,  # [bins]
    best_ptr,  # [bins]
    count_ptr,  # [], set to 0 for those that follow
    slots,
    bins,
    tiles,
    AGE_WEIGHT: tl.constexpr,
    NOISE_WEIGHT: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
):
    """The slot of every bin that goes first, and its priority."""
    bin = tl.program_id(0) * BLOCK_BINS + tl.arange(0, BLOCK_BINS)
    clock = tl.load(clock_ptr)
    begin = _sequence(seed_ptr, clock, slots)
    highest = tl.full([BLOCK_BINS], -float("inf"), tl.float64)
    best = tl.full([BLOCK_BINS], EMPTY, tl.int64)
    for start in range(0, tiles, BLOCK_TILES):
        tile = (start + tl.arange(0, BLOCK_TILES)).to(tl.int64)
        slot = _slot_of(tile[:, None], bin[None, :], bins)
        there = (slot < slots) & (bin < bins)[None, :]
        priority = _priority(
            values_ptr, written_ptr, clock, begin, slot, there, AGE_WEIGHT, NOISE_WEIGHT
        )
        top = tl.max(priority, 0)
        # Of equal ones the lowest; in later tiles slots are higher.
        lowest = tl.min(tl.where(priority == top[None, :], slot, slots), 0)
        best = tl.where(top > highest, lowest, best)
        highest = tl.maximum(highest, top)
    tl.store(priorities_ptr + bin, highest, mask=bin < bins)
    tl.store(best_ptr + bin, best, mask=bin < bins)
    if tl.program_id(0) == 0:
        tl.store(count_ptr, 0)


@triton.jit
@no_type_check
def first_bins(
    priorities_ptr,  # [bins]
    best_ptr,  # [bins]
    first_ptr,  # [count]
    bins,
    count,
    BLOCK: tl.constexpr,
    OTHERS: tl.constexpr,
):
    """The bins whose best slots go first, in order."""
    bin = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    rank = _rank(priorities_ptr, best_ptr, bin, bins, BLOCK, OTHERS)
    tl.store(first_ptr + rank, bin, mask=(bin < bins) & (rank < count))


@triton.jit
@no_type_check
def list_slots(
    values_ptr,  # [slots]
    written_ptr,  # [slots]
    clock_ptr,  # []
    seed_ptr,  # []
    priorities_ptr,  # [bins]
    best_ptr,  # [bins]
    first_ptr,  # [count]
    keep_ptr,  # [kept, keep_stride]
    averaged_ptr,  # [kept]
    listed_priorities_ptr,  # [count * tiles]
    listed_ptr,  # [count * tiles]
    count_ptr,  # []
    slots,
    bins,
    tiles,
    count,
    kept,
    keep_stride,
    AGE_WEIGHT: tl.constexpr,
    NOISE_WEIGHT: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    """The slots of one of the first bins that do not go after the best slot of the last of them.

    Every slot of another bin goes after that one. None is listed that rows are averaged into.
    """
    bin = tl.load(first_ptr + tl.program_id(0))
    last = tl.load(first_ptr + count - 1)
    least = tl.load(priorities_ptr + last)
    latest = tl.load(best_ptr + last)
    clock = tl.load(clock_ptr)
    begin = _sequence(seed_ptr, clock, slots)
    for start in range(0, tiles, BLOCK_TILES):
        tile = (start + tl.arange(0, BLOCK_TILES)).to(tl.int64)
        slot = _slot_of(tile, bin, bins)
        there = slot < slots
        priority = _priority(
            values_ptr, written_ptr, clock, begin, slot, there, AGE_WEIGHT, NOISE_WEIGHT
        )
        listed = there & ((priority > least) | ((priority == least) & (slot <= latest)))
        found = tl.sum(listed.to(tl.int32), 0)
        # One after another: most bins have one.
        for _ in range(0, found):
            one = tl.min(tl.where(listed, slot, slots), 0)
            kept_here = tl.zeros([BLOCK_ROWS], tl.int32)
            for first_row in range(0, kept, BLOCK_ROWS):
                row = first_row + tl.arange(0, BLOCK_ROWS)
                keep = tl.load(keep_ptr + row * keep_stride, mask=row < kept, other=EMPTY)
                is_kept = tl.load(averaged_ptr + row, mask=row < kept, other=0) != 0
                kept_here += ((keep == one) & is_kept).to(tl.int32)
            if tl.sum(kept_here, 0) == 0:
                place = tl.atomic_add(count_ptr, 1)
                of_one = tl.max(tl.where(slot == one, priority, -float("inf")), 0)
                tl.store(listed_priorities_ptr + place, of_one)
                tl.store(listed_ptr + place, one)
            listed = listed & (slot != one)


@triton.jit
@no_type_check
def sort_slots(
    listed_priorities_ptr,  # [count * tiles]
    listed_ptr,  # [count * tiles]
    count_ptr,  # []
    free_ptr,  # [wanted]
    wanted,
    BLOCK: tl.constexpr,
    OTHERS: tl.constexpr,
):
    """The slots to give up, those that go first, in order; then EMPTY."""
    count = tl.load(count_ptr)
    part = tl.program_id(0) * BLOCK
    for start in range(part, count, tl.num_programs(0) * BLOCK):
        at = start + tl.arange(0, BLOCK)
        rank = _rank(listed_priorities_ptr, listed_ptr, at, count, BLOCK, OTHERS)
        slot = tl.load(listed_ptr + at, mask=at < count, other=EMPTY)
        tl.store(free_ptr + rank, slot, mask=(at < count) & (rank < wanted))
    if part == 0:
        for start in range(count, wanted, BLOCK):
            rest = start + tl.arange(0, BLOCK)
            tl.store(free_ptr + rest, tl.full([BLOCK], EMPTY, tl.int64), mask=rest < wanted)


@triton.jit
@no_type_check
def look_at_rows(
    queries_ptr,  # [rows, KEY_DIM]
    labels_ptr,  # [rows]
    nearest_ptr,  # [rows, stride]
    values_ptr,  # [slots]
    fingerprints_ptr,  # [rows]
    hits_ptr,  # [rows]
    averaged_ptr,  # [rows]
    good_ptr,  # [rows]
    slots,
    stride,
    AVERAGES: tl.constexpr,
    KEY_DIM: tl.constexpr,
    BLOCK_DIMS: tl.constexpr,
):
    """Whether a row is written at all, hits, and is averaged; and sum_i q_i cos(i), which tells
    rows apart."""
    row = tl.program_id(0).to(tl.int64)
    dim = tl.arange(0, BLOCK_DIMS)
    within = dim < KEY_DIM
    query = tl.load(queries_ptr + row * KEY_DIM + dim, mask=within, other=0.0).to(tl.float64)
    fingerprint = tl.sum(query * tl.cos((dim + 1).to(tl.float64)), 0)
    label = tl.load(labels_ptr + row)
    # A row that a read left out has no length.
    size = tl.abs(query)
    finite = tl.sum((size < float("inf")).to(tl.int32), 0) == BLOCK_DIMS
    good = (label >= 0) & finite & (tl.max(size, 0) > 0)
    nearest = tl.load(nearest_ptr + row * stride)
    # A recall may be of another memory.
    exists = (nearest >= 0) & (nearest < slots)
    value = tl.load(values_ptr + nearest, mask=exists, other=EMPTY)
    hit = good & exists & (value == label)
    # A number that is not one would be neither before nor after the others.
    tl.store(fingerprints_ptr + row, tl.where(good, fingerprint, 0.0))
    tl.store(hits_ptr + row, hit)
    averaged = hit
    if not AVERAGES:
        averaged = hit != hit
    tl.store(averaged_ptr + row, averaged)
    tl.store(good_ptr + row, good)


@triton.jit
@no_type_check
def take_slots(
    labels_ptr,  # [rows]
    fingerprints_ptr,  # [rows]
    nearest_ptr,  # [rows, stride]
    averaged_ptr,  # [rows]
    good_ptr,  # [rows]
    free_ptr,  # [rows]
    values_ptr,  # [slots]
    order_ptr,  # [rows]
    slots_ptr,  # [rows]
    overwritten_ptr,  # [rows]
    rows,
    stride,
    BLOCK: tl.constexpr,
):
    """The slot of each row, and the own order of the rows: by label, then by fingerprint.

    In this order the rows that are not averaged take the slots that are given up.
    """
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = row < rows
    label = tl.load(labels_ptr + row, mask=there, other=0)
    fingerprint = tl.load(fingerprints_ptr + row, mask=there, other=0.0)
    averaged = tl.load(averaged_ptr + row, mask=there, other=0) != 0
    good = tl.load(good_ptr + row, mask=there, other=0) != 0
    ranks = tl.zeros([BLOCK, BLOCK], tl.int32)
    places = tl.zeros([BLOCK, BLOCK], tl.int32)
    for start in range(0, rows, BLOCK):
        other = start + tl.arange(0, BLOCK)
        known = other < rows
        its_label = tl.load(labels_ptr + other, mask=known, other=0)[None, :]
        its_fingerprint = tl.load(fingerprints_ptr + other, mask=known, other=0.0)[None, :]
        its_averaged = tl.load(averaged_ptr + other, mask=known, other=0)
        its_good = tl.load(good_ptr + other, mask=known, other=0)
        takes = (its_good != 0) & (its_averaged == 0)
        same = its_label == label[:, None]
        equal = its_fingerprint == fingerprint[:, None]
        earlier = (its_fingerprint < fingerprint[:, None]) | (
            equal & (other[None, :] < row[:, None])
        )
        before = ((its_label < label[:, None]) | (same & earlier)) & known[None, :]
        ranks += before.to(tl.int32)
        places += (before & takes[None, :]).to(tl.int32)
    place = tl.sum(places, 1)
    tl.store(order_ptr + tl.sum(ranks, 1), row, mask=there)
    taken = there & good & (averaged == 0)
    slot = tl.load(free_ptr + place, mask=taken, other=EMPTY)
    overwritten = tl.load(values_ptr + slot, mask=taken & (slot != EMPTY), other=EMPTY)
    nearest = tl.load(nearest_ptr + row * stride, mask=there, other=EMPTY)
    tl.store(slots_ptr + row, tl.where(averaged, nearest, slot), mask=there)
    tl.store(overwritten_ptr + row, overwritten, mask=there)


@triton.jit
@no_type_check
def put_rows(
    queries_ptr,  # [rows, KEY_DIM]
    labels_ptr,  # [rows]
    averaged_ptr,  # [rows]
    order_ptr,  # [rows]
    taken_ptr,  # [rows]
    keys_ptr,  # [slots, KEY_DIM]
    values_ptr,  # [slots]
    written_ptr,  # [slots]
    clock_ptr,  # []
    rows,
    SHORTEST: tl.constexpr,
    KEY_DIM: tl.constexpr,
    BLOCK_DIMS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    """Put a row into its slot, or the average of the key and of all rows that have this slot.

    K = (K + sum of rows) / |K + sum of rows|, summed in float64, in the own order of the rows; a
    key that they cancel stays as it is. The first of these rows in the batch does it for all.
    """
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(taken_ptr + row)
    averaged = tl.load(averaged_ptr + row)
    dim = tl.arange(0, BLOCK_DIMS)
    within = dim < KEY_DIM
    if slot != EMPTY:
        at = keys_ptr + slot * KEY_DIM + dim
        new = tl.load(queries_ptr + row * KEY_DIM + dim, mask=within, other=0.0)
        first = row == row
        if averaged:
            key = tl.load(at, mask=within, other=0.0)
            total = tl.zeros([BLOCK_DIMS], tl.float64)
            lowest = row
            for start in range(0, rows, BLOCK_ROWS):
                place = start + tl.arange(0, BLOCK_ROWS)
                other = tl.load(order_ptr + place, mask=place < rows, other=0)
                same = tl.load(taken_ptr + other, mask=place < rows, other=EMPTY) == slot
                some = queries_ptr + other.to(tl.int64)[:, None] * KEY_DIM + dim[None, :]
                summed = tl.load(some, mask=same[:, None] & within[None, :], other=0.0)
                total += tl.sum(summed.to(tl.float64), 0)
                lowest = tl.minimum(lowest, tl.min(tl.where(same, other.to(tl.int64), rows), 0))
            first = lowest == row
            total += key.to(tl.float64)
            length = tl.sqrt(tl.sum(total * total, 0))
            long = length > SHORTEST
            new = tl.where(long, (total / tl.where(long, length, 1.0)).to(tl.float32), key)
        if first:
            tl.store(at, new, mask=within)
            tl.store(values_ptr + slot, tl.load(labels_ptr + row))
            tl.store(written_ptr + slot, tl.load(clock_ptr) + 1)


@triton.jit
@no_type_check
def end_write(
    taken_ptr,  # [rows]
    clock_ptr,  # []
    rows,
    BLOCK_ROWS: tl.constexpr,
):
    """One more write, if any row was written."""
    written = tl.zeros([BLOCK_ROWS], tl.int32)
    for start in range(0, rows, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        slot = tl.load(taken_ptr + row, mask=row < rows, other=EMPTY)
        written += (slot != EMPTY).to(tl.int32)
    any_written = (tl.sum(written, 0) > 0).to(tl.int64)
    tl.store(clock_ptr, tl.load(clock_ptr) + any_written)


@triton.jit
@no_type_check
def _slot_of(tile, bin, bins):
    """Slot number `tile` of a bin. Slots that lie together are in different bins.

    From tile to tile the bins are moved on, so that those of every second slot, say, are not the
    same in all of them.
    """
    return tile * bins + (bin + tile * _SKEW) % bins


@triton.jit
@no_type_check
def _rank(priorities_ptr, slots_ptr, at, count, BLOCK: tl.constexpr, OTHERS: tl.constexpr):
    """How many of these slots go before each of a block, with many of them looked at together."""
    priority = tl.load(priorities_ptr + at, mask=at < count, other=0.0)
    slot = tl.load(slots_ptr + at, mask=at < count, other=0)
    earlier = tl.zeros([BLOCK, OTHERS], tl.int32)
    for start in range(0, count, OTHERS):
        other = start + tl.arange(0, OTHERS)
        its_priority = tl.load(priorities_ptr + other, mask=other < count, other=-float("inf"))
        its_slot = tl.load(slots_ptr + other, mask=other < count, other=0)[None, :]
        higher = its_priority[None, :] > priority[:, None]
        equal = its_priority[None, :] == priority[:, None]
        before = (higher | (equal & (its_slot < slot[:, None]))) & (other < count)[None, :]
        earlier += before.to(tl.int32)
    return tl.sum(earlier, 1)


@triton.jit
@no_type_check
def _priority(
    values_ptr,
    written_ptr,
    clock,
    begin,
    slot,
    there,
    AGE_WEIGHT: tl.constexpr,
    NOISE_WEIGHT: tl.constexpr,
):
    """AGE_WEIGHT * age + NOISE_WEIGHT * noise; of empty slots infinite.

    The weights are constants, since Triton rounds a number that it is given to float32.
    """
    value = tl.load(values_ptr + slot, mask=there, other=0)
    age = (clock - tl.load(written_ptr + slot, mask=there, other=0)).to(tl.float64)
    priority = age * AGE_WEIGHT + _noise(begin, slot) * NOISE_WEIGHT
    priority = tl.minimum(tl.maximum(priority, -_LARGEST), _LARGEST)
    priority = tl.where(value == EMPTY, float("inf"), priority)
    return tl.where(there, priority, -float("inf"))


@triton.jit
@no_type_check
def _sequence(seed_ptr, clock, slots):
    """The state of SplitMix64 before the number of slot 0 (see `updates.sequence_of`)."""
    seed = tl.load(seed_ptr).to(tl.uint64, bitcast=True)
    return seed + (clock * slots + 1).to(tl.uint64, bitcast=True) * _GAMMA


@triton.jit
@no_type_check
def _noise(begin, slot):
    """Number `slot` of the sequence, in [-1, 1) (see `updates.noise_at`)."""
    z = begin + slot.to(tl.uint64, bitcast=True) * _GAMMA
    z = (z ^ (z >> 30)) * _FIRST_FACTOR
    z = (z ^ (z >> 27)) * _SECOND_FACTOR
    z = (z ^ (z >> 31)) >> 11
    return z.to(tl.int64).to(tl.float64) * _NOISE_STEP - 1.0
