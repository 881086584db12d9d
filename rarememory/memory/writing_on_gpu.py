"""Plain writes on a GPU, each in a few Triton kernels, for which the host does not wait.

With `validate` it waits once, for whether all rows are good.
"""

import torch
from torch import Tensor

from rarememory.base.state import EMPTY, MemoryState, Recall, Write
from rarememory.lookup.triton_launch import launch
from rarememory.lookup.triton_plan import power_of_two
from rarememory.memory.at_once import AVERAGES, MOST_ROWS
from rarememory.memory.reading_on_gpu import are_plain, warps
from rarememory.memory.updates import ByAgeAndNoise, Update
from rarememory.memory.writing import SHORTEST_SUM

# At least twice MOST_ROWS: so many slots may have to be looked at, to find as many as rows.
_BINS = 2048
_BLOCK = 32
# Slots that are ranked at once, each beside so many others at once.
_RANKED = 16
_OTHERS = 256


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
    if not are_plain(labels, rows) or rows.shape[-1:] != state.keys.shape[1:]:
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
        num_warps=warps(key_dim),
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
