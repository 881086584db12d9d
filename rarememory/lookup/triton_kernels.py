"""The streaming pass over the keys, and the exact search for the one nearest slot.

Slot s is in bin s % bins, so consecutive slots, which were often written together, are in different
bins. The pass keeps the maximum of every bin and sorts nothing. Its scores are rounded, so all
slots within rounding of the best are scored again, exactly.
"""

from typing import no_type_check

import triton
import triton.language as tl

# Below any cosine: the initial maximum of a bin, and the offset of a slot that does not count.
NOTHING = tl.constexpr(-8.0)
_BITS_OF_NOTHING = tl.constexpr(-0x3F000000)
# Scores of slots that count are above it, however they are rounded.
LOWEST = tl.constexpr(-2.0)
EMPTY = tl.constexpr(-1)


@triton.jit(do_not_specialize=["rows"])
@no_type_check
def bin_maxima(
    queries_ptr,  # [rows, KEY_DIM]
    stream_ptr,  # [slots, KEY_DIM]
    marks_ptr,  # [slots], or with EACH [rows, slots]
    labels_ptr,  # [rows]
    maxima_ptr,  # [planes, rows, bins]
    rows,
    slots,
    bins,
    tiles,
    low_bits,
    KEY_DIM: tl.constexpr,
    PAIR: tl.constexpr,
    SECOND: tl.constexpr,
    FEW: tl.constexpr,
    EACH: tl.constexpr,
    SLOTS_FIRST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_SLOTS: tl.constexpr,
    BLOCK_DIMS: tl.constexpr,
):
    """maxima[row, bin] = max of q.k over the slots of the bin that count.

    The marks are truth values, or values, of which EMPTY does not count. With PAIR they are values,
    and there are two planes: slots with the row's label, and occupied slots with another. With
    SECOND the low bits of a score hold the number of the slot in its bin, and the second plane
    holds the runners-up. With FEW the keys of slots without a mark are not loaded. With SLOTS_FIRST
    blocks are [slots, rows]: the same product, for which the chip reads the other operand less.
    """
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    bin = tl.program_id(1) * BLOCK_SLOTS + tl.arange(0, BLOCK_SLOTS)
    label = row
    if PAIR:
        label = tl.load(labels_ptr + row, mask=row < rows, other=EMPTY)
    query = _query(queries_ptr, stream_ptr, row, rows, 0, KEY_DIM, BLOCK_DIMS)
    if SLOTS_FIRST:
        first = tl.full([BLOCK_SLOTS, BLOCK_ROWS], NOTHING, tl.float32)
        label = label[None, :]
    else:
        first = tl.full([BLOCK_ROWS, BLOCK_SLOTS], NOTHING, tl.float32)
        label = label[:, None]
    second = first
    mark = _marks(marks_ptr, row, rows, bin, slots, EACH)
    for tile in range(0, tiles - 1):
        slot = tile * bins + bin
        # Loaded one tile ahead, to hide the latency.
        ahead = slot + bins
        next_mark = _marks(marks_ptr, row, rows, ahead, slots, EACH)
        wanted = _wanted(mark, slot, slots, FEW, EACH)
        scores = _scores(
            query,
            queries_ptr,
            stream_ptr,
            row,
            rows,
            slot,
            wanted,
            KEY_DIM,
            BLOCK_DIMS,
            FEW,
            SLOTS_FIRST,
        )
        first, second = _merge(
            first, second, scores, mark, label, tile, low_bits, PAIR, SECOND, EACH, SLOTS_FIRST
        )
        mark = next_mark
    # Only the last tile may end beyond the last slot: the others need no mask.
    tile = tiles - 1
    slot = tile * bins + bin
    wanted = _wanted(mark, slot, slots, FEW, EACH)
    scores = _scores(
        query,
        queries_ptr,
        stream_ptr,
        row,
        rows,
        slot,
        wanted,
        KEY_DIM,
        BLOCK_DIMS,
        True,
        SLOTS_FIRST,
    )
    first, second = _merge(
        first, second, scores, mark, label, tile, low_bits, PAIR, SECOND, EACH, SLOTS_FIRST
    )
    if SLOTS_FIRST:
        at = row.to(tl.int64)[None, :] * bins + bin[:, None]
        there = (row < rows)[None, :]
    else:
        at = row.to(tl.int64)[:, None] * bins + bin[None, :]
        there = (row < rows)[:, None]
    tl.store(maxima_ptr + at, first, mask=there)
    if PAIR or SECOND:
        tl.store(maxima_ptr + rows.to(tl.int64) * bins + at, second, mask=there)


@triton.jit
@no_type_check
def _marks(marks_ptr, row, rows, slot, slots, EACH: tl.constexpr):
    """The marks of a block of slots; with EACH those of every row, [rows, slots]."""
    if EACH:
        there = (row < rows)[:, None] & (slot < slots)[None, :]
        at = row.to(tl.int64)[:, None] * slots + slot[None, :]
        marks = tl.load(marks_ptr + at, mask=there, other=0)
    elif marks_ptr.dtype.element_ty == tl.int64:
        marks = tl.load(marks_ptr + slot, mask=slot < slots, other=EMPTY)
    else:
        marks = tl.load(marks_ptr + slot, mask=slot < slots, other=0)
    return marks


@triton.jit
@no_type_check
def is_marked(mark):
    """Whether a slot counts: marks are truth values, or the values themselves."""
    nothing: tl.constexpr = -1 if mark.dtype == tl.int64 else 0
    return mark != nothing


@triton.jit
@no_type_check
def _wanted(mark, slot, slots, FEW: tl.constexpr, EACH: tl.constexpr):
    """Whether the key of each slot is loaded; of use only where not all are."""
    if not FEW:
        wanted = slot < slots
    elif EACH:
        wanted = tl.max(is_marked(mark).to(tl.int32), 0) != 0
    else:
        wanted = is_marked(mark)
    return wanted


@triton.jit
@no_type_check
def _query(
    queries_ptr, stream_ptr, row, rows, start, KEY_DIM: tl.constexpr, BLOCK_DIMS: tl.constexpr
):
    dim = start + tl.arange(0, BLOCK_DIMS)
    there = (row < rows)[:, None] & (dim < KEY_DIM)[None, :]
    at = row.to(tl.int64)[:, None] * KEY_DIM + dim[None, :]
    return tl.load(queries_ptr + at, mask=there, other=0.0).to(stream_ptr.dtype.element_ty)


@triton.jit
@no_type_check
def _scores(
    query,
    queries_ptr,
    stream_ptr,
    row,
    rows,
    slot,
    wanted,
    KEY_DIM: tl.constexpr,
    BLOCK_DIMS: tl.constexpr,
    MASKED: tl.constexpr,
    SLOTS_FIRST: tl.constexpr,
):
    """Rounded q.k of a block of rows and a block of slots.

    `query` holds the whole queries if they fit; else both are loaded in slabs of BLOCK_DIMS.
    """
    if SLOTS_FIRST:
        scores = tl.zeros([slot.shape[0], row.shape[0]], tl.float32)
        for start in range(0, KEY_DIM, BLOCK_DIMS):
            if KEY_DIM > BLOCK_DIMS:
                query = _query(queries_ptr, stream_ptr, row, rows, start, KEY_DIM, BLOCK_DIMS)
            key = _keys(stream_ptr, slot, wanted, start, KEY_DIM, BLOCK_DIMS, MASKED)
            scores = tl.dot(key, tl.trans(query), scores, input_precision="tf32")
        return scores
    scores = tl.zeros([row.shape[0], slot.shape[0]], tl.float32)
    if KEY_DIM <= BLOCK_DIMS:
        key = _keys(stream_ptr, slot, wanted, 0, KEY_DIM, BLOCK_DIMS, MASKED)
        return tl.dot(query, tl.trans(key), scores, input_precision="tf32")
    for start in range(0, KEY_DIM, BLOCK_DIMS):
        query = _query(queries_ptr, stream_ptr, row, rows, start, KEY_DIM, BLOCK_DIMS)
        key = _keys(stream_ptr, slot, wanted, start, KEY_DIM, BLOCK_DIMS, MASKED)
        scores = tl.dot(query, tl.trans(key), scores, input_precision="tf32")
    return scores


@triton.jit
@no_type_check
def _keys(
    stream_ptr,
    slot,
    wanted,
    start,
    KEY_DIM: tl.constexpr,
    BLOCK_DIMS: tl.constexpr,
    MASKED: tl.constexpr,
):
    dim = start + tl.arange(0, BLOCK_DIMS)
    at = stream_ptr + slot.to(tl.int64)[:, None] * KEY_DIM + dim[None, :]
    within = (dim < KEY_DIM)[None, :]
    if MASKED:
        return tl.load(at, mask=wanted[:, None] & within, other=0.0)
    if KEY_DIM % BLOCK_DIMS == 0:
        return tl.load(at)
    return tl.load(at, mask=within, other=0.0)


@triton.jit
@no_type_check
def _merge(
    first,
    second,
    scores,
    mark,
    label,
    tile,
    low_bits,
    PAIR: tl.constexpr,
    SECOND: tl.constexpr,
    EACH: tl.constexpr,
    SLOTS_FIRST: tl.constexpr,
):
    if EACH and SLOTS_FIRST:
        mark = tl.trans(mark)
    elif SLOTS_FIRST:
        mark = mark[:, None]
    elif not EACH:
        mark = mark[None, :]
    if SECOND:
        # Bit operations put the tile into the score, or NOTHING if the slot does not count.
        kept = tl.where(is_marked(mark), ~low_bits, 0)
        put = tl.where(is_marked(mark), tile, _BITS_OF_NOTHING)
        scores = ((scores.to(tl.int32, bitcast=True) & kept) | put).to(tl.float32, bitcast=True)
        second = tl.maximum(second, tl.minimum(first, scores))
        first = tl.maximum(first, scores)
    elif PAIR:
        scores += tl.where(is_marked(mark), 0.0, NOTHING)
        right = mark == label
        first = tl.maximum(first, tl.where(right, scores, NOTHING))
        second = tl.maximum(second, tl.where(right, NOTHING, scores))
    else:
        scores += tl.where(is_marked(mark), 0.0, NOTHING)
        first = tl.maximum(first, scores)
    return first, second


@triton.jit
@no_type_check
def exact_scores(query_ptr, keys_ptr, slot, there, KEY_DIM: tl.constexpr, BLOCK_DIMS: tl.constexpr):
    """score[i] = sum_d q_d K[slot[i]]_d in float64, rounded once, as `lookup/exact.py` has it."""
    total = tl.zeros([slot.shape[0], BLOCK_DIMS], tl.float64)
    for start in range(0, KEY_DIM, BLOCK_DIMS):
        dim = start + tl.arange(0, BLOCK_DIMS)
        within = dim < KEY_DIM
        query = tl.load(query_ptr + dim, mask=within, other=0.0).to(tl.float64)
        at = keys_ptr + slot.to(tl.int64)[:, None] * KEY_DIM + dim[None, :]
        key = tl.load(at, mask=there[:, None] & within[None, :], other=0.0).to(tl.float64)
        total += query[None, :] * key
    return tl.sum(total, 1).to(tl.float32)


@triton.jit(do_not_specialize=["rows"])
@no_type_check
def best_of_bins(
    queries_ptr,  # [rows, KEY_DIM]
    keys_ptr,  # [slots, KEY_DIM]
    marks_ptr,  # [slots] or [rows, slots]
    labels_ptr,  # [rows]
    maxima_ptr,  # [planes, rows, bins]
    near_ptr,  # [planes, rows, bins], for bins that come near
    found_ptr,  # [rows, planes]
    scores_ptr,  # [rows, planes]
    found_values_ptr,  # [rows, planes], with READ
    values_ptr,  # [slots], with READ
    rows,
    slots,
    bins,
    tiles,
    stride,
    window,
    KEY_DIM: tl.constexpr,
    PAIR: tl.constexpr,
    READ: tl.constexpr,
    BLOCK_BINS: tl.constexpr,
    BLOCK_CANDIDATES: tl.constexpr,
    BLOCK_DIMS: tl.constexpr,
):
    """The best slot of one row and plane, and its score: all bins near the best scored exactly.

    Near is what rounding may hide. The number of such bins is not limited, so the result is always
    exact.
    """
    row = tl.program_id(0).to(tl.int64)
    plane = tl.program_id(1)
    of_row = (plane.to(tl.int64) * rows + row) * bins
    highest = tl.full([BLOCK_BINS], NOTHING, tl.float32)
    for start in range(0, bins, BLOCK_BINS):
        bin = start + tl.arange(0, BLOCK_BINS)
        maxima = tl.load(maxima_ptr + of_row + bin, mask=bin < bins, other=NOTHING)
        highest = tl.maximum(highest, maxima)
    floor = tl.maximum(tl.max(highest, 0) - window, LOWEST)
    count = 0
    for start in range(0, bins, BLOCK_BINS):
        bin = start + tl.arange(0, BLOCK_BINS)
        maxima = tl.load(maxima_ptr + of_row + bin, mask=bin < bins, other=NOTHING)
        near = (maxima >= floor).to(tl.int32)
        listed = tl.sum(near, 0)
        # Most blocks have none.
        if listed > 0:
            place = count + tl.cumsum(near, 0) - near
            tl.store(near_ptr + of_row + place, bin, mask=near != 0)
        count += listed
    candidates = count * tiles
    # One thread reads what another has listed.
    tl.debug_barrier()

    label = row
    if PAIR:
        label = tl.load(labels_ptr + row)
    best = tl.full([BLOCK_CANDIDATES], -float("inf"), tl.float32)
    best_slot = tl.full([BLOCK_CANDIDATES], EMPTY, tl.int64)
    for start in range(0, candidates, BLOCK_CANDIDATES):
        at = start + tl.arange(0, BLOCK_CANDIDATES)
        there = at < candidates
        slot = tl.load(near_ptr + of_row + at // tiles, mask=there, other=0) + at % tiles * bins
        there = there & (slot < slots)
        marks = tl.load(marks_ptr + row * stride + slot, mask=there, other=0)
        there = there & is_marked(marks)
        if PAIR:
            there = there & ((marks == label) == (plane == 0))
        scores = exact_scores(
            queries_ptr + row * KEY_DIM, keys_ptr, slot, there, KEY_DIM, BLOCK_DIMS
        )
        # A query that is not finite finds nothing.
        there = there & (tl.abs(scores) < float("inf"))
        better = there & ((scores > best) | ((scores == best) & (slot < best_slot)))
        best = tl.where(better, scores, best)
        best_slot = tl.where(better, slot.to(tl.int64), best_slot)
    top = tl.max(best, 0)
    lowest = tl.min(tl.where((best == top) & (best_slot >= 0), best_slot, slots), 0)
    at = row * tl.num_programs(1) + plane
    tl.store(found_ptr + at, tl.where(lowest < slots, lowest, EMPTY))
    tl.store(scores_ptr + at, top)
    if READ:
        value = tl.load(values_ptr + lowest, mask=lowest < slots, other=EMPTY)
        tl.store(found_values_ptr + at, value)
