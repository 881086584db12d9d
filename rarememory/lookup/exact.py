"""Exact scores of given slots, and the order of neighbours: higher score first, then lower slot.

A matrix product may round one dot product differently in its last columns than in its first, so
that equal keys get unequal scores. Here a score is a sum in float64, rounded once: the same for the
same key in every slot. The neighbours that any search finds are ordered by these scores.
"""

from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rarememory import native
from rarememory.base.shapes import Keys, Queries, Values
from rarememory.base.state import EMPTY, wants_gradient

SCORE_OFFSET = 4
"""Added to scores, which lie in [-1, 1], it puts a group of them above or below all others."""

_PAIRS_AT_ONCE = 2**18
_MOST_RANKED = 2**31


def tolerance(keys: Tensor) -> float:
    """How far below the highest score of a matrix product the best slot may be found.

    The error of a dot product of unit vectors is at most d eps / 2 (Higham 2002, section 3.1), an
    offset adds SCORE_OFFSET eps, and rounding the exact score eps / 2: all twice, for two slots.
    """
    return _tolerance(keys.shape[1], keys.dtype)


@cache
def _tolerance(key_dim: int, dtype: torch.dtype) -> float:
    wide = torch.promote_types(dtype, torch.float32)
    return (key_dim + 2 * SCORE_OFFSET + 2) * torch.finfo(wide).eps


def score(
    queries: Queries, keys: Keys, slots: Int64[Tensor, "batch k"]
) -> Float[Tensor, "batch k"]:
    """Cosine of each query with the keys of its slots, with gradient to the queries.

    score = sum_d q_d K[slot]_d. A slot that is EMPTY scores -inf.
    """
    if torch.compiler.is_compiling():
        scores: Tensor = _score_operator(queries, keys, slots)
    elif wants_gradient(queries):
        scores = _Score.apply(queries, keys, slots)
    else:
        scores = _score(queries, keys, slots)
    return scores


def _score(queries: Tensor, keys: Tensor, slots: Tensor) -> Tensor:
    queries, slots = queries.contiguous(), slots.contiguous()
    if native.is_supported(queries, keys, slots):
        scores = native.empty_output(*slots.shape, dtype=torch.float32)
        native.library().score(
            *(queries, len(queries), keys, keys.shape[1]),
            *(slots, slots.shape[1], torch.get_num_threads(), scores),
        )
        return scores
    # EMPTY is -1, the last key; its score is replaced.
    return dot(queries.unsqueeze(1), keys[slots]).masked_fill_(slots == EMPTY, -torch.inf)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    queries, keys, slots = inputs
    # Copies, since a write may change the keys before the backward pass: of all keys, if these and
    # the dense gradient, [batch, slots], are no larger than the keys found, [batch, k, key_dim].
    ctx.whole = len(keys) <= slots.shape[1] * min(queries.shape)
    ctx.save_for_backward(keys.clone() if ctx.whole else keys[slots], slots)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    """dq = sum_k g_k K[slot_k]; the keys get none."""
    found, slots = ctx.saved_tensors
    gradient = gradient.masked_fill(slots == EMPTY, 0.0)
    found = found.to(gradient.dtype)
    if ctx.whole:
        everywhere = gradient.new_zeros(len(slots), len(found))
        return everywhere.scatter_add_(1, slots.clamp(min=0), gradient) @ found, None, None
    return torch.bmm(gradient.unsqueeze(1), found).squeeze(1), None, None


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, slots: Tensor) -> Tensor:
        scores = _score(queries, keys, slots)
        _setup_context(ctx, (queries, keys, slots), scores)
        return scores

    backward = staticmethod(_backward)


# For compiled programs only: calling an operator from Python takes several times as long.
_score_operator = torch.library.custom_op("rarememory::score", _score, mutates_args=())
_score_operator.register_autograd(_backward, setup_context=_setup_context)


@_score_operator.register_fake
def _(queries: Tensor, keys: Tensor, slots: Tensor) -> Tensor:
    return queries.new_empty(slots.shape, dtype=torch.promote_types(queries.dtype, torch.float32))


def dot(one: Float[Tensor, "*#rows key_dim"], other: Float[Tensor, "*#rows key_dim"]) -> Tensor:
    """sum_d one_d other_d in float64 where the device has it, rounded once, to float32 or wider."""
    wide = torch.float32 if one.device.type == "mps" else torch.float64
    rounded = torch.promote_types(one.dtype, torch.float32)
    return (one.to(wide) * other.to(wide)).sum(-1).to(rounded)


def order(scores: Float[Tensor, "batch k"], slots: Int64[Tensor, "batch k"]) -> Tensor:
    """Columns of the neighbours, sorted by higher score, then lower slot; EMPTY comes last."""
    in_order: Tensor = (
        _order(scores, slots) if torch.compiler.is_compiling() else _sorted(scores, slots)
    )
    return in_order


def _sorted(scores: Tensor, slots: Tensor) -> Tensor:
    by_slot = slots.argsort(dim=-1)
    by_score = scores.gather(-1, by_slot).argsort(dim=-1, descending=True, stable=True)
    return by_slot.gather(-1, by_score)


# An operator, because an exported program needs another form of it: ONNX has no stable sort.
_order = torch.library.custom_op("rarememory::order", _sorted, mutates_args=())


@_order.register_fake
def _(scores: Tensor, slots: Tensor) -> Tensor:
    return torch.empty_like(slots)


def ranked(
    queries: Queries, keys: Keys, values: Values, slots: Int64[Tensor, "batch k"]
) -> tuple[Int64[Tensor, "batch k"], Float[Tensor, "batch k"], Int64[Tensor, "batch k"]]:
    """The slots of each query in the one order, their scores, with gradient, and their values.

    Example:
        >>> keys, values = torch.eye(3), torch.tensor([7, 8, 9])
        >>> slots, scores, found = ranked(keys[:1], keys, values, torch.tensor([[2, 1, 0]]))
        >>> slots.tolist(), scores.tolist(), found.tolist()
        ([[0, 1, 2]], [[1.0, 0.0, 0.0]], [[7, 8, 9]])
    """
    queries = queries.contiguous()
    if len(keys) < _MOST_RANKED and native.is_supported(queries, keys, values, slots):
        # Sorted in place, and whoever found them may still hold them.
        slots = slots.clone()
        scores = native.empty_output(*slots.shape, dtype=torch.float32)
        found = torch.empty_like(slots)
        native.library().rank(
            *(queries, len(queries), keys, keys.shape[1]),
            *(values, slots, slots.shape[1], torch.get_num_threads(), scores, found),
        )
        if wants_gradient(queries):
            scores = score(queries, keys, slots)
        return slots, scores, found
    return in_order(slots, score(queries, keys, slots), values)


def in_order(
    slots: Int64[Tensor, "batch k"], scores: Float[Tensor, "batch k"], values: Values
) -> tuple[Int64[Tensor, "batch k"], Float[Tensor, "batch k"], Int64[Tensor, "batch k"]]:
    """Slots and scores in the one order, with the values of the slots; that of EMPTY is EMPTY."""
    if slots.shape[1] > 1:
        places = order(scores.detach(), slots)
        slots, scores = slots.gather(1, places), scores.gather(1, places)
    # Nothing is at slot EMPTY, the last slot of all: there the value is put right.
    return slots, scores, values[slots].masked_fill_(slots == EMPTY, EMPTY)


def k_nearest(
    queries: Float[Tensor, "*memories batch key_dim"],
    keys: Float[Tensor, "*memories slots key_dim"],
    near: Bool[Tensor, "*memories batch slots"],
    k: int,
) -> Int64[Tensor, "*memories batch k"]:
    """The k best of the slots marked `near` for each query, best first, then EMPTY.

    With several memories each query finds slots of its own.
    """
    *shape, batch, size = near.shape
    queries, keys, near = queries.flatten(0, -2), keys.flatten(0, -2), near.flatten(0, -2)
    # Slots ascend in each row: the stable sorts below keep the lower slot first in a tie.
    rows, slots = near.nonzero(as_tuple=True)
    places = slots + rows // batch * size if shape else slots
    parts = zip(rows.split(_PAIRS_AT_ONCE), places.split(_PAIRS_AT_ONCE), strict=True)
    scores = torch.cat([dot(queries[row], keys[place]) for row, place in parts])
    by_score = scores.argsort(descending=True, stable=True)
    in_order = by_score[rows[by_score].argsort(stable=True)]
    rows, slots = rows[in_order], slots[in_order]
    counts = near.sum(1)
    rank = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    chosen = rank < k
    found = slots.new_full((len(queries), k), EMPTY)
    found[rows[chosen], rank[chosen]] = slots[chosen]
    return found.view(*shape, batch, k)


def nearest_slot(
    queries: Float[Tensor, "*memories batch key_dim"],
    keys: Float[Tensor, "*memories slots key_dim"],
    scores: Float[Tensor, "*memories batch slots"],
    floor: float,
) -> Int64[Tensor, "*memories batch"]:
    """The best slot of each row of rounded scores, or EMPTY where all are below the floor.

    Changes `scores` in place.
    """
    highest = scores.amax(-1, keepdim=True)
    slots = _argmax(scores)
    threshold = (highest - tolerance(keys)).clamp(min=floor)
    # Exact scores are needed only if a second slot is within rounding of the best, which is rare.
    runner_up = scores.scatter_(-1, slots, -torch.inf).amax(-1, keepdim=True)
    if (runner_up >= threshold).any():
        near = scores.scatter_(-1, slots, highest) >= threshold
        return k_nearest(queries, keys, near, 1).squeeze(-1)
    return slots.masked_fill(highest < floor, EMPTY).squeeze(-1)


def numpy_can_read(scores: Tensor) -> bool:
    """Whether NumPy can read the scores without a copy."""
    return scores.device.type == "cpu" and scores.dtype != torch.bfloat16


def _argmax(scores: Tensor) -> Tensor:
    if numpy_can_read(scores):
        # NumPy's argmax is five times as fast as torch's.
        return torch.from_numpy(scores.numpy().argmax(-1, keepdims=True))
    return scores.argmax(-1, keepdim=True)
