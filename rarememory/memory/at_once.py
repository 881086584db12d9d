"""Plain reads and writes on a CPU, each in one call of the library in C++.

Each answers None where it takes more than one call, and then nothing is done. Without a lookup they
are of several memories, whose tensors have a dimension of memories before the others.
"""

import math
from typing import Any

import torch
from torch import Tensor

from rarememory import native
from rarememory.base.state import EMPTY, MemoryState, Recall, Write, wants_gradient
from rarememory.lookup import Lookup
from rarememory.lookup.exact import tolerance
from rarememory.lookup.native import PairRead
from rarememory.lookup.ops import native_search
from rarememory.memory.queries import Rows, recalled
from rarememory.memory.updates import (
    AverageOrReplace,
    AverageOrReplaceRandom,
    ByAgeAndNoise,
    FirstInFirstOut,
    Update,
)
from rarememory.memory.writing import SHORTEST_SUM

AVERAGES: dict[type[ByAgeAndNoise], bool] = {
    AverageOrReplace: True,
    AverageOrReplaceRandom: True,
    FirstInFirstOut: False,
}
"""Policies that are written at once, and whether they average rows that hit."""

MOST_ROWS = 1024
"""Rows that are written together."""


def read_at_once(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    lookup: Lookup | None,
    k: int,
    temperature: float,
    among: Tensor | None = None,
) -> Recall | None:
    """What plain queries without gradient recall, of all slots or among some labels or slots."""
    flat = _plain(queries, keys)
    if flat is None or type(k) is not int or k < 1:
        return None
    if wants_gradient(queries):
        return None
    if among is not None:
        if len(flat) == 1 and among.dtype == torch.bool and among.shape[:-1] == queries.shape[:-1]:
            # A mask of its own is a mask of all queries.
            among = among.flatten()
        if lookup is None or not _is_plain(among, values):
            return None
    if lookup is None:
        found = _read_each(flat, keys, values, k)
    else:
        search = native_search(lookup, flat, keys, k)
        found = None if search is None else search.read(flat, keys, values, k, among)
    if found is None:
        return None
    slots, scores, values, units = found
    if flat is queries:
        return Recall(slots, scores, values, units, temperature, None, among is not None)
    rows = Rows(units, None, None, queries.shape[:-1])
    return recalled(rows, (slots, scores, values), temperature, None, among is not None)


def read_pair_at_once(
    queries: Tensor,
    labels: Tensor,
    keys: Tensor,
    values: Tensor,
    lookup: Lookup | None,
    margin: float,
    offset: float,
    temperature: float,
) -> Recall | None:
    """What plain queries recall with labels, with the loss less an offset, and its gradient."""
    flat = _plain(queries, keys)
    if flat is None or type(labels) is not Tensor or labels.dtype != torch.int64:
        return None
    if labels.shape != queries.shape[:-1] or not native.is_supported(flat, keys, values, labels):
        return None
    if lookup is None:
        pair = _read_pair_each(flat, labels, keys, values, margin)
    else:
        search = native_search(lookup, flat, keys, 2)
        if search is None or not 0 < len(flat) <= MOST_ROWS:
            return None
        of_rows = labels if labels.dim() == 1 else labels.reshape(-1)
        pair = search.read_pair(flat, of_rows, keys, values, margin)
    if pair is None:
        return None
    if wants_gradient(queries):
        scores, units, loss = PairWithGradient.apply(flat, pair)
        pair = pair._replace(scores=scores, units=units, loss=loss)
    loss = pair.loss - offset if offset else pair.loss
    rows = Rows(pair.units, None, None, queries.shape[:-1])
    return recalled(rows, (pair.slots, pair.scores, pair.values), temperature, loss)


def write_at_once(
    state: MemoryState, update: Update, recall: Recall, labels: Tensor
) -> tuple[Write, bool] | None:
    """Write queries that were just recalled, by a policy of this package; whether hits average."""
    if not isinstance(update, ByAgeAndNoise) or type(update) not in AVERAGES:
        return None
    averages = AVERAGES[type(update)]
    rows, slots = recall.queries, recall.slots
    if type(labels) is not Tensor or labels.dtype != torch.int64 or labels.shape != rows.shape[:-1]:
        return None
    *memories, size, key_dim = state.keys.shape
    batch = labels.numel() // math.prod(memories)
    few = 0 < batch <= min(MOST_ROWS, size) and slots.shape[-1] > 0
    plain = rows.dtype == torch.float32 == state.keys.dtype and slots.dtype == torch.int64
    if not few or not plain or rows.shape[-1] != key_dim:
        return None
    if not native.is_supported(*state, rows, slots, labels):
        return None
    taken, hits = torch.empty_like(labels), torch.empty_like(labels, dtype=torch.bool)
    overwritten = torch.empty_like(labels)
    kernels, threads = native.library(), [torch.get_num_threads()] if memories else []
    write = kernels.write_each if memories else kernels.write_at_once
    failed = write(
        *(*memories, state.keys, size, key_dim, *state[1:]),
        *(rows, labels, batch, slots, slots.shape[-1]),
        *(averages, *map(float, update.weights), SHORTEST_SUM, *threads),
        *(taken, hits, overwritten),
    )
    if failed:
        return None
    # Torch did not see it: autograd has to be informed if it keeps one of these for a gradient.
    torch.autograd.graph.increment_version([state.keys, state.values, state.written, state.clock])
    return Write(taken, hits, overwritten), averages


def _plain(queries: Tensor, keys: Tensor) -> Tensor | None:
    """Float32 queries of the keys' width, [batch, key_dim]; None of any others."""
    plain = type(queries) is Tensor and queries.dtype == torch.float32 and queries.dim() > 0
    if not plain or queries.layout != torch.strided or queries.shape[-1] != keys.shape[-1]:
        return None
    return queries if queries.dim() == 2 else queries.reshape(-1, keys.shape[-1])


def _is_plain(among: Tensor, values: Tensor) -> bool:
    """Whether these are labels, or a mask of the slots, of all queries."""
    if among.dtype == torch.bool:
        return among.shape == values.shape
    return among.dtype == torch.int64 and among.dim() == 1


def _read_each(
    queries: Tensor, keys: Tensor, values: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """As `NativeLookup.read`, of each memory."""
    memories, size, key_dim = keys.shape
    batch = len(queries) // memories
    if not batch or not native.is_supported(queries, keys, values):
        return None
    k = min(k, size)
    slots, units = values.new_empty((len(queries), k)), torch.empty_like(queries)
    found, scores = torch.empty_like(slots), keys.new_empty(slots.shape)
    failed = native.library().read_each(
        *(memories, queries, batch, keys, size, key_dim, values),
        *(k, tolerance(keys), torch.get_num_threads()),
        *(units, slots, scores, found),
    )
    return None if failed else (slots, scores, found, units)


def _read_pair_each(
    queries: Tensor, labels: Tensor, keys: Tensor, values: Tensor, margin: float
) -> PairRead | None:
    """As `NativeLookup.read_pair`, of each memory."""
    memories, size, key_dim = keys.shape
    batch = len(queries) // memories
    if not 0 < batch <= MOST_ROWS:
        return None
    read = PairRead.empty(*queries.shape, memories)
    failed = native.library().read_pair_each(
        *(memories, queries, batch, keys, size, key_dim, values, labels),
        *(margin, tolerance(keys), torch.get_num_threads()),
        *read,
    )
    return None if failed else read


class PairWithGradient(torch.autograd.Function):
    """Scores, units and loss of a pair that was read at once, as functions of the queries."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, pair: PairRead) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(queries, pair.slots, pair.keys, pair.slopes, pair.units)
        # Beside the others, which take time to be unpacked: mostly it is the only one needed.
        ctx.gradient, ctx.dtype = pair.gradient, queries.dtype
        return pair.scores, pair.units, pair.loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, None]:
        """dq = (g - u (u . g)) / |q|, g = du + sum_i (ds_i + slope_i dloss / batch) K[slot_i]."""
        of_scores, of_units, of_loss = gradients
        alone = of_scores is None and of_units is None and not torch.is_grad_enabled()
        if alone and of_loss is not None and of_loss.dim() == 0:
            # That of the loss was found with the pair. It has no gradient of its own.
            found = of_loss * ctx.gradient
            return found if found.dtype == ctx.dtype else found.to(ctx.dtype), None
        queries, slots, keys, slopes, units_read = ctx.saved_tensors
        weights = torch.zeros_like(slopes)
        if of_loss is not None:
            # A loss, or one for each of several memories of as many rows.
            of_each = slopes.view(*of_loss.shape, -1, 2)
            weights = of_each * (of_loss / of_each.shape[-2]).unsqueeze(-1).unsqueeze(-1)
            weights = weights.view_as(slopes)
        if of_scores is not None:
            weights = weights + of_scores.masked_fill(slots == EMPTY, 0.0)
        along = torch.bmm(weights.unsqueeze(1), keys).squeeze(1)
        if of_units is not None:
            along = along + of_units
        # In float64, in which no query is too long or too short for its square.
        lengths = torch.linalg.vector_norm(queries, dim=1, keepdim=True, dtype=torch.float64)
        lengths = lengths.to(along.dtype)
        units = queries / lengths
        found = (along - units * (units * along).sum(1, keepdim=True)) / lengths
        # A read on a GPU leaves out rows that are not good: their units are zero.
        return found.where(units_read.any(1, keepdim=True), 0.0).to(ctx.dtype), None
