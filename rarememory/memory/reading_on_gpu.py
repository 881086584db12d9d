"""Plain reads on a GPU, each in a few Triton kernels, for which the host does not wait.

A read answers None where it takes more than that. With `validate` the host waits once, for whether
all rows are good.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rarememory.base.state import Recall, wants_gradient
from rarememory.lookup import AutoLookup, Lookup, TritonLookup
from rarememory.lookup.native import PairRead
from rarememory.lookup.triton_launch import launch
from rarememory.lookup.triton_plan import power_of_two
from rarememory.memory.at_once import PairWithGradient
from rarememory.memory.queries import SAFE_LENGTHS, Rows, recalled

_MOST_DIMS = 4096
# With labels each row counts how many rows are good.
_MOST_READ = 2**14
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


class How(NamedTuple):
    """What a memory reads by.

    Attributes:
        temperature: of the recall.
        margin: of the loss.
        offset: taken from the loss.
        half_keys: makes the copy of the keys in float16, if there is one.
        validate: whether rows that are not good are refused, for which the host waits.
    """

    temperature: float
    margin: float
    offset: float
    half_keys: Callable[[], Tensor | None]
    validate: bool


class UnitRows(NamedTuple):
    """Queries at unit length.

    Attributes:
        units: [rows, key_dim]; zero where a row is not good.
        asked: the same, but NaN there, which finds nothing.
        lengths: [rows], those that the queries had; 1 where a row is not good.
        good: [rows], whether a row is finite, not zero, and labelled by 0 or more.
    """

    units: Tensor
    asked: Tensor
    lengths: Tensor
    good: Tensor


def search_on_gpu(lookup: Lookup, keys: Tensor) -> TritonLookup | None:
    """The search in Triton, if this lookup would use it now, and no program is compiled."""
    found = lookup
    if isinstance(lookup, AutoLookup) and keys.is_cuda:
        found = next((one for one in lookup.lookups if isinstance(one, TritonLookup)), lookup)
    if type(found) is not TritonLookup or torch.compiler.is_compiling():
        return None
    fits = keys.shape[1] <= _MOST_DIMS and found.why_not(keys, keys, 1) is None
    return found if fits else None


def read_at_once(
    queries: Tensor,
    labels: Tensor | None,
    keys: Tensor,
    values: Tensor,
    lookup: Lookup,
    k: int | None,
    how: How,
) -> Recall | None:
    """What plain queries recall: with labels their pair, without them the k nearest slots."""
    search = search_on_gpu(lookup, keys)
    if search is None:
        return None
    if labels is None:
        return read(search, queries, keys, values, k, how)
    return None if k is not None else read_pair(search, queries, labels, keys, values, how)


def read(
    search: TritonLookup,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    k: int | None,
    how: How,
) -> Recall | None:
    """What plain queries without gradient recall of all slots."""
    flat = _flat(queries, keys)
    if flat is None or type(k) is not int or k < 1 or search.why_not(flat, keys, k) is not None:
        return None
    if wants_gradient(queries):
        return None
    rows = unit_rows(flat)
    if how.validate and not rows.good.all():
        return None
    found = search.read(rows.asked, keys, values.contiguous(), k, half_keys=how.half_keys())
    assert found.values is not None
    parts = (found.slots, found.scores, found.values)
    return recalled(Rows(rows.units, None, None, queries.shape[:-1]), parts, how.temperature, None)


def read_pair(
    search: TritonLookup,
    queries: Tensor,
    labels: Tensor,
    keys: Tensor,
    values: Tensor,
    how: How,
) -> Recall | None:
    """What plain queries recall with labels, with the loss less an offset, and its gradient."""
    flat = _flat(queries, keys)
    if flat is None or len(flat) > _MOST_READ or not are_plain(labels, queries):
        return None
    of_rows = labels.reshape(-1).contiguous()
    rows = unit_rows(flat.detach(), of_rows)
    if how.validate and not rows.good.all():
        return None
    pair = _pair(search, rows, of_rows, keys, values, how.margin, how.half_keys())
    if wants_gradient(queries):
        scores, units, loss = PairWithGradient.apply(flat, pair)
        pair = pair._replace(scores=scores, units=units, loss=loss)
    loss = pair.loss - how.offset if how.offset else pair.loss
    parts = (pair.slots, pair.scores, pair.values)
    return recalled(Rows(pair.units, None, None, queries.shape[:-1]), parts, how.temperature, loss)


def _flat(queries: Tensor, keys: Tensor) -> Tensor | None:
    """Queries of the keys' width and device, [batch, key_dim]; None of any others, or of none."""
    if type(queries) is not Tensor or queries.dtype not in _FLOATS or queries.is_nested:
        return None
    plain = queries.layout == torch.strided and queries.device == keys.device
    fits = queries.shape[-1:] == keys.shape[1:] and queries.numel() > 0
    return queries.reshape(-1, keys.shape[1]) if plain and fits else None


def are_plain(labels: Tensor, queries: Tensor) -> bool:
    """Whether these are labels, one for each query."""
    if type(labels) is not Tensor or labels.dtype != torch.int64 or labels.is_nested:
        return False
    return (
        labels.layout == torch.strided
        and labels.shape == queries.shape[:-1]
        and labels.device == queries.device
    )


def _pair(
    search: TritonLookup,
    rows: UnitRows,
    labels: Tensor,
    keys: Tensor,
    values: Tensor,
    margin: float,
    half_keys: Tensor | None,
) -> PairRead:
    from rarememory.memory import read_kernels

    values = values.contiguous()
    pair = search.scored_pair(rows.asked, keys, values, labels, half_keys=half_keys)
    batch, key_dim = rows.units.shape
    slots, found = torch.empty_like(pair.slots), torch.empty_like(pair.slots)
    scores, slopes = torch.empty_like(pair.scores), torch.empty_like(pair.scores)
    found_keys, gradient = scores.new_empty(batch, 2, key_dim), torch.empty_like(rows.units)
    losses, loss = scores.new_empty(batch, dtype=torch.float64), scores.new_empty(())
    block = min(1024, power_of_two(batch))
    launch(
        read_kernels.compare_pair,
        (batch,),
        *(rows.units, rows.lengths, rows.good, keys, values, pair.slots, pair.scores),
        *(slots, scores, found, found_keys, slopes, gradient, losses, batch, float(margin)),
        KEY_DIM=key_dim,
        BLOCK_DIMS=power_of_two(key_dim),
        BLOCK_ROWS=block,
        num_warps=4,
    )
    launch(read_kernels.add_up, (1,), losses, loss, batch, BLOCK_ROWS=block, num_warps=4)
    return PairRead(rows.units, slots, scores, found, found_keys, slopes, gradient, loss)


def unit_rows(queries: Tensor, labels: Tensor | None = None) -> UnitRows:
    """The queries, [rows, key_dim], at unit length, and which of them are good."""
    from rarememory.memory import read_kernels

    queries = queries.contiguous()
    units = torch.empty_like(queries, dtype=torch.float32)
    asked, good = torch.empty_like(units), units.new_empty(len(units), dtype=torch.bool)
    lengths = units.new_empty(len(units))
    launch(
        read_kernels.unit_rows,
        (len(queries),),
        *(queries, good if labels is None else labels, units, asked, lengths, good),
        KEY_DIM=queries.shape[1],
        BLOCK_DIMS=power_of_two(queries.shape[1]),
        SHORTEST=SAFE_LENGTHS[0],
        LONGEST=SAFE_LENGTHS[1],
        LABELLED=labels is not None,
        num_warps=warps(queries.shape[1]),
    )
    return UnitRows(units, asked, lengths, good)


def warps(key_dim: int) -> int:
    """Of a program that holds one row: so many that no number of it lacks a register."""
    return max(1, min(8, power_of_two(key_dim) // 128))
