"""Plain reads and writes on a GPU, each in a few Triton kernels, for which the host does not wait.

A read answers None where it takes more than that, and then nothing is done. With `validate` the
host waits once in a read and once in a write, for whether all rows are good.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rarememory.base.state import EMPTY, MemoryState, Recall, Write
from rarememory.lookup import AutoLookup, Lookup, TritonLookup
from rarememory.lookup.native import PairRead
from rarememory.lookup.triton_launch import launch
from rarememory.lookup.triton_plan import power_of_two
from rarememory.memory.at_once import AVERAGES, MOST_ROWS, PairWithGradient
from rarememory.memory.queries import SAFE_LENGTHS, Rows, recalled
from rarememory.memory.updates import ByAgeAndNoise, Update
from rarememory.memory.writing import SHORTEST_SUM

_MOST_DIMS = 4096
# With labels each row counts how many rows are good.
_MOST_READ = 2**14
# At least twice MOST_ROWS: so many slots may have to be looked at, to find as many as rows.
_BINS = 2048
_BLOCK = 32
# Slots that are ranked at once, each beside so many others at once.
_RANKED = 16
_OTHERS = 256
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
    if queries.requires_grad and torch.is_grad_enabled():
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
    if flat is None or len(flat) > _MOST_READ or not _are_plain(labels, queries):
        return None
    of_rows = labels.reshape(-1).contiguous()
    rows = unit_rows(flat.detach(), of_rows)
    if how.validate and not rows.good.all():
        return None
    pair = _pair(search, rows, of_rows, keys, values, how.margin, how.half_keys())
    if queries.requires_grad and torch.is_grad_enabled():
        scores, units, loss = PairWithGradient.apply(flat, pair)
        pair = pair._replace(scores=scores, units=units, loss=loss)
    loss = pair.loss - how.offset if how.offset else pair.loss
    parts = (pair.slots, pair.scores, pair.values)
    return recalled(Rows(pair.units, None, None, queries.shape[:-1]), parts, how.temperature, loss)


def can_write(
    state: MemoryState, update: Update, queries: Tensor | Recall, labels: Tensor, validate: bool
) -> bool:
    """Whether `write` serves such queries, or what was recalled of them."""
    if type(update) not in AVERAGES:
        return False
    recall = queries if isinstance(queries, Recall) else None
    rows = queries.queries if isinstance(queries, Recall) else queries
    plain = recall is None or recall.queries.dtype == torch.float32
    if not plain or state.keys.dtype != torch.float32 or not isinstance(rows, Tensor):
        return False
    if not _are_plain(labels, rows) or rows.shape[-1:] != state.keys.shape[1:]:
        return False
    few = 0 < labels.numel() <= min(MOST_ROWS, len(state.keys))
    contiguous = all(part.is_contiguous() for part in state) and not state.clock.dim()
    if not few or not contiguous or rows.device != state.keys.device:
        return False
    if recall is not None:
        slots = recall.slots
        if slots.dtype != torch.int64 or slots.device != rows.device or not slots.shape[-1]:
            return False
    if not validate:
        return True
    good = labels >= 0
    if recall is not None:
        nearest = recall.slots[..., 0]
        good = good & (nearest >= EMPTY) & (nearest < len(state.keys))
    return bool(good.all())


def write(state: MemoryState, update: Update, recall: Recall, labels: Tensor) -> tuple[Write, bool]:
    """Write queries that were just recalled, for which `can_write`; whether hits average."""
    assert isinstance(update, ByAgeAndNoise)
    averages, weights = AVERAGES[type(update)], update.weights
    done = _written(
        *(state, (float(weights[0]), float(weights[1])), averages),
        recall.queries.detach().reshape(-1, state.keys.shape[1]).contiguous(),
        labels.reshape(-1).contiguous(),
        recall.slots.reshape(labels.numel(), -1).contiguous(),
    )
    # Torch did not see it: autograd has to be informed if it keeps one of these for a gradient.
    torch.autograd.graph.increment_version([state.keys, state.values, state.written, state.clock])
    return Write(*(part.view(labels.shape) for part in done)), averages


def _flat(queries: Tensor, keys: Tensor) -> Tensor | None:
    """Queries of the keys' width and device, [batch, key_dim]; None of any others, or of none."""
    if type(queries) is not Tensor or queries.dtype not in _FLOATS or queries.is_nested:
        return None
    plain = queries.layout == torch.strided and queries.device == keys.device
    fits = queries.shape[-1:] == keys.shape[1:] and queries.numel() > 0
    return queries.reshape(-1, keys.shape[1]) if plain and fits else None


def _are_plain(labels: Tensor, queries: Tensor) -> bool:
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
        num_warps=_warps(queries.shape[1]),
    )
    return UnitRows(units, asked, lengths, good)


def _written(
    state: MemoryState,
    weights: tuple[float, float],
    averages: bool,
    queries: Tensor,
    labels: Tensor,
    nearest: Tensor,
) -> Write:
    """Write rows, [rows, key_dim], whose nearest slots are the first column of `nearest`.

    `weights` are those of age and noise, and `averages` says whether rows that hit are averaged.
    """
    from rarememory.memory import write_kernels

    rows, key_dim = queries.shape
    dims = {"KEY_DIM": key_dim, "BLOCK_DIMS": power_of_two(key_dim)}
    fingerprints = queries.new_empty(rows, dtype=torch.float64)
    hits, averaged, good = (torch.empty_like(labels, dtype=torch.bool) for _ in range(3))
    launch(
        write_kernels.look_at_rows,
        (rows,),
        *(queries, labels, nearest, state.values, fingerprints, hits, averaged, good),
        *(len(state.keys), nearest.shape[1]),
        AVERAGES=averages,
        **dims,
        num_warps=_warps(key_dim),
    )
    free = _free_slots(state, weights, rows, nearest, averaged, rows if averages else 0)
    order = torch.empty_like(labels, dtype=torch.int32)
    slots, overwritten = torch.empty_like(labels), torch.empty_like(labels)
    launch(
        write_kernels.take_slots,
        (-(-rows // _BLOCK),),
        *(labels, fingerprints, nearest, averaged, good, free, state.values),
        *(order, slots, overwritten, rows, nearest.shape[1]),
        BLOCK=_BLOCK,
        num_warps=4,
    )
    launch(
        write_kernels.put_rows,
        (rows,),
        *(queries, labels, averaged, order, slots, *state[:4], rows),
        SHORTEST=SHORTEST_SUM,
        **dims,
        BLOCK_ROWS=max(1, min(power_of_two(rows), 2**13 // dims["BLOCK_DIMS"])),
        num_warps=4,
    )
    block = power_of_two(rows)
    launch(write_kernels.end_write, (1,), slots, state.clock, rows, BLOCK_ROWS=block, num_warps=4)
    return Write(slots, hits, overwritten)


def _warps(key_dim: int) -> int:
    """Of a program that holds one row: so many that no number of it lacks a register."""
    return max(1, min(8, power_of_two(key_dim) // 128))


def _free_slots(
    state: MemoryState,
    weights: tuple[float, float],
    wanted: int,
    nearest: Tensor,
    averaged: Tensor,
    most_kept: int,
) -> Tensor:
    """The slots to give up first, [wanted], never one that is averaged into, as `eviction_order`.

    The best slots of the first `count` bins are `count` slots: enough, though all that are kept be
    among them. So those that are wanted go no later than the last of these.
    """
    from rarememory.memory import write_kernels

    slots = len(state.values)
    bins = min(slots, _BINS)
    tiles, count = -(-slots // bins), min(wanted + most_kept, bins)
    new = state.values.new_empty
    priorities, best = new(bins, dtype=torch.float64), new(bins)
    first, found = new(count, dtype=torch.int32), new((), dtype=torch.int32)
    listed_priorities, listed = new(count * tiles, dtype=torch.float64), new(count * tiles)
    free = new(wanted)
    policy = {"AGE_WEIGHT": weights[0], "NOISE_WEIGHT": weights[1]}
    ages = (state.values, state.written, state.clock, state.seed)
    launch(
        write_kernels.first_of_bins,
        (-(-bins // 4),),
        *(*ages, priorities, best, found, slots, bins, tiles),
        **policy,
        BLOCK_BINS=4,
        BLOCK_TILES=min(_OTHERS, power_of_two(tiles)),
        num_warps=4,
    )
    launch(
        write_kernels.first_bins,
        (-(-bins // _RANKED),),
        *(priorities, best, first, bins, count),
        BLOCK=_RANKED,
        OTHERS=_OTHERS,
        num_warps=4,
    )
    launch(
        write_kernels.list_slots,
        (count,),
        *(*ages, priorities, best, first, nearest, averaged, listed_priorities, listed, found),
        *(slots, bins, tiles, count, len(averaged), nearest.shape[1]),
        **policy,
        BLOCK_TILES=min(2 * _OTHERS, power_of_two(tiles)),
        BLOCK_ROWS=_OTHERS,
        num_warps=4,
    )
    launch(
        write_kernels.sort_slots,
        (_BLOCK,),
        *(listed_priorities, listed, found, free, wanted),
        BLOCK=_RANKED,
        OTHERS=_OTHERS,
        num_warps=4,
    )
    return free
