"""What a read does beside its search, in Triton: rows of unit length, and the loss of a pair."""

from typing import no_type_check

import triton
import triton.language as tl

from rarememory.lookup.triton_kernels import EMPTY


@triton.jit
@no_type_check
def unit_rows(
    queries_ptr,  # [rows, KEY_DIM]
    labels_ptr,  # [rows], with LABELLED
    units_ptr,  # [rows, KEY_DIM]
    asked_ptr,  # [rows, KEY_DIM]
    lengths_ptr,  # [rows]
    good_ptr,  # [rows]
    KEY_DIM: tl.constexpr,
    BLOCK_DIMS: tl.constexpr,
    SHORTEST: tl.constexpr,
    LONGEST: tl.constexpr,
    LABELLED: tl.constexpr,
):
    """u = q / |q|, |q| summed in float64, as `queries.normalized` has it.

    A row that is zero, not finite or labelled below 0 is not good: its unit is zero, and it asks
    for NaN, which finds nothing.
    """
    row = tl.program_id(0).to(tl.int64)
    dim = tl.arange(0, BLOCK_DIMS)
    within = dim < KEY_DIM
    at = row * KEY_DIM + dim
    query = tl.load(queries_ptr + at, mask=within, other=0.0).to(tl.float32)
    size = tl.abs(query)
    finite = tl.sum((size < float("inf")).to(tl.int32), 0) == BLOCK_DIMS
    greatest = tl.max(size, 0)
    good = finite & (greatest > 0)
    if LABELLED:
        good = good & (tl.load(labels_ptr + row) >= 0)
    query = tl.where(good, query, 0.0)
    length = _length(query)
    # Such a length loses digits in float32: the row is scaled by its greatest number first.
    unsafe = good & ((length <= SHORTEST) | (length >= LONGEST))
    greatest = tl.where(unsafe, greatest, 1.0)
    scaled = tl.div_rn(query, greatest + tl.zeros_like(query))
    length = tl.where(good, _length(scaled), 1.0)
    unit = tl.div_rn(scaled, length + tl.zeros_like(scaled))
    tl.store(units_ptr + at, unit, mask=within)
    tl.store(asked_ptr + at, tl.where(good, unit, float("nan")), mask=within)
    tl.store(lengths_ptr + row, length * greatest)
    tl.store(good_ptr + row, good)


@triton.jit
@no_type_check
def _length(row):
    wide = row.to(tl.float64)
    return tl.sqrt(tl.sum(wide * wide, 0)).to(tl.float32)


@triton.jit
@no_type_check
def compare_pair(
    units_ptr,  # [rows, KEY_DIM]
    lengths_ptr,  # [rows]
    good_ptr,  # [rows]
    keys_ptr,  # [slots, KEY_DIM]
    values_ptr,  # [slots]
    pair_ptr,  # [rows, 2], the slots of the positive and of the negative
    pair_scores_ptr,  # [rows, 2]
    slots_ptr,  # [rows, 2], from here on in the order of scores
    scores_ptr,  # [rows, 2]
    found_values_ptr,  # [rows, 2]
    found_keys_ptr,  # [rows, 2, KEY_DIM]
    slopes_ptr,  # [rows, 2]
    gradient_ptr,  # [rows, KEY_DIM]
    losses_ptr,  # [rows]
    rows,
    margin,
    KEY_DIM: tl.constexpr,
    BLOCK_DIMS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    """The pair in the one order, the loss of the row, its slopes, and its gradient to the query.

    loss = [ q.K[b] - q.K[p] + margin ]_+, a missing score of the positive counting as 0 (Kaiser et
    al. 2017, section 2). Of the mean over n good rows, dq = (g - u (u . g)) / (n |q|), with g the
    sum of slopes times keys.
    """
    row = tl.program_id(0).to(tl.int64)
    count = _count(good_ptr, rows, BLOCK_ROWS)
    good = tl.load(good_ptr + row)
    positive = tl.load(pair_ptr + 2 * row)
    negative = tl.load(pair_ptr + 2 * row + 1)
    right = tl.load(pair_scores_ptr + 2 * row)
    wrong = tl.load(pair_scores_ptr + 2 * row + 1)
    known = positive != EMPTY
    lost = wrong - tl.where(known, right, 0.0) + margin
    falls = good & (lost > 0)
    tl.store(losses_ptr + row, tl.where(falls, lost, 0.0).to(tl.float64) / count)

    ahead = (right > wrong) | ((right == wrong) & (positive < negative))
    first = 2 * row + tl.where(ahead, 0, 1)
    second = 2 * row + tl.where(ahead, 1, 0)
    of_right = tl.where(falls & known, -1.0, 0.0)
    of_wrong = tl.where(falls, 1.0, 0.0)
    dim = tl.arange(0, BLOCK_DIMS)
    within = dim < KEY_DIM
    right_key = _key(keys_ptr, positive, dim, within, KEY_DIM)
    wrong_key = _key(keys_ptr, negative, dim, within, KEY_DIM)
    # Divided by the number of all rows, and not of the good ones, where the gradient is put
    # together anew.
    share = rows / count
    right_value = tl.load(values_ptr + positive, mask=known, other=EMPTY)
    wrong_value = tl.load(values_ptr + negative, mask=negative != EMPTY, other=EMPTY)
    tl.store(slots_ptr + first, positive)
    tl.store(slots_ptr + second, negative)
    tl.store(scores_ptr + first, right)
    tl.store(scores_ptr + second, wrong)
    tl.store(found_values_ptr + first, right_value)
    tl.store(found_values_ptr + second, wrong_value)
    tl.store(slopes_ptr + first, of_right * share)
    tl.store(slopes_ptr + second, of_wrong * share)
    tl.store(found_keys_ptr + first * KEY_DIM + dim, right_key, mask=within)
    tl.store(found_keys_ptr + second * KEY_DIM + dim, wrong_key, mask=within)

    unit = tl.load(units_ptr + row * KEY_DIM + dim, mask=within, other=0.0)
    along = of_right * right_key + of_wrong * wrong_key
    along -= unit * tl.sum(unit * along, 0)
    gradient = along / (count * tl.load(lengths_ptr + row))
    tl.store(gradient_ptr + row * KEY_DIM + dim, gradient, mask=within)


@triton.jit
@no_type_check
def add_up(
    losses_ptr,  # [rows]
    loss_ptr,  # []
    rows,
    BLOCK_ROWS: tl.constexpr,
):
    """The sum of the losses, in float64 and rounded once."""
    total = tl.zeros([BLOCK_ROWS], tl.float64)
    for start in range(0, rows, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        total += tl.load(losses_ptr + row, mask=row < rows, other=0.0)
    tl.store(loss_ptr, tl.sum(total, 0).to(tl.float32))


@triton.jit
@no_type_check
def _count(good_ptr, rows, BLOCK_ROWS: tl.constexpr):
    """How many rows are good, and 1 where none is."""
    good = tl.zeros([BLOCK_ROWS], tl.int32)
    for start in range(0, rows, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        good += tl.load(good_ptr + row, mask=row < rows, other=0).to(tl.int32)
    return tl.maximum(tl.sum(good, 0), 1).to(tl.float32)


@triton.jit
@no_type_check
def _key(keys_ptr, slot, dim, within, KEY_DIM: tl.constexpr):
    """The key of a slot in float32; zeros for EMPTY."""
    # As a vector: in Triton's interpreter a single truth value cannot be part of a mask.
    slots = slot + tl.zeros_like(dim)
    at = keys_ptr + slots * KEY_DIM + dim
    return tl.load(at, mask=within & (slots != EMPTY), other=0.0).to(tl.float32)
