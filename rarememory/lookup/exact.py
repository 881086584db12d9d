"""Scores of given slots, computed in one place, and the one order: higher first, then lower slot.

A matrix product may round the same dot product differently in its last columns than in its first,
so two equal keys can get unequal scores. Here a score is a sum in float64, rounded once: the same
for the same key wherever it lies. Every backend's neighbours are ordered by these scores.
"""

from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rarememory import native
from rarememory.base.state import EMPTY

SCORE_OFFSET = 4
"""Scores lie in [-1, 1]: this much added or taken away sets one group of them apart for certain."""

_PAIRS_AT_ONCE = 2**18


def tolerance(keys: Tensor) -> float:
    """How much lower than the best a slot may score in a matrix product and still be the best.

    A dot product of unit vectors is within d eps / 2 of the truth (Higham 2002, section 3.1), an
    offset adds SCORE_OFFSET eps, the score itself eps / 2, and two slots may each be off so.
    """
    return (keys.shape[1] + 2 * SCORE_OFFSET + 2) * _eps(keys.dtype)


@cache
def _eps(dtype: torch.dtype) -> float:
    return torch.finfo(torch.promote_types(dtype, torch.float32)).eps


def score(
    queries: Float[Tensor, "batch key_dim"],
    keys: Float[Tensor, "slots key_dim"],
    slots: Int64[Tensor, "batch k"],
) -> Float[Tensor, "batch k"]:
    """Cosine of each query with the keys of its slots, with gradient to the queries.

    score = sum_d q_d K[slot]_d. A slot that is EMPTY scores -inf.
    """
    if torch.compiler.is_compiling():
        scores: Tensor = _score_operator(queries, keys, slots)
    elif queries.requires_grad and torch.is_grad_enabled():
        scores = _Score.apply(queries, keys, slots)
    else:
        scores = _score(queries, keys, slots)
    return scores


def _score(queries: Tensor, keys: Tensor, slots: Tensor) -> Tensor:
    queries, slots = queries.contiguous(), slots.contiguous()
    if native.is_supported(queries, keys, slots):
        scores = native.empty_output(*slots.shape, dtype=torch.float32)
        native.library().rarememory_score(
            *(queries.data_ptr(), len(queries), keys.data_ptr(), keys.shape[1]),
            *(slots.data_ptr(), slots.shape[1], torch.get_num_threads(), scores.data_ptr()),
        )
        return scores
    # Slot EMPTY takes the last key, and is struck out.
    return dot(queries.unsqueeze(1), keys[slots]).masked_fill_(slots == EMPTY, -torch.inf)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    queries, keys, slots = inputs
    # The keys as they are now: a write may change them before the gradient is asked for. Where
    # most of the memory was found by every query, all of it is less than what each has found.
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


# The same for programs; to call an operator from Python takes several times as long.
_score_operator = torch.library.custom_op("rarememory::score", _score, mutates_args=())
_score_operator.register_autograd(_backward, setup_context=_setup_context)


@_score_operator.register_fake
def _(queries: Tensor, keys: Tensor, slots: Tensor) -> Tensor:
    return queries.new_empty(slots.shape, dtype=torch.promote_types(queries.dtype, torch.float32))


def dot(one: Float[Tensor, "*#rows key_dim"], other: Float[Tensor, "*#rows key_dim"]) -> Tensor:
    """Sums over the last axis in float64, where the device has it, rounded once, to float32."""
    wide = torch.float32 if one.device.type == "mps" else torch.float64
    rounded = torch.promote_types(one.dtype, torch.float32)
    return (one.to(wide) * other.to(wide)).sum(-1).to(rounded)


def order(scores: Float[Tensor, "batch k"], slots: Int64[Tensor, "batch k"]) -> Tensor:
    """Places of the neighbours in the one order, EMPTY last."""
    in_order: Tensor = (
        _order(scores, slots) if torch.compiler.is_compiling() else _sorted(scores, slots)
    )
    return in_order


def _sorted(scores: Tensor, slots: Tensor) -> Tensor:
    by_slot = slots.argsort(dim=-1)
    by_score = scores.gather(-1, by_slot).argsort(dim=-1, descending=True, stable=True)
    return by_slot.gather(-1, by_score)


# An operator, because a program that leaves torch has to say a stable sort in another way.
_order = torch.library.custom_op("rarememory::order", _sorted, mutates_args=())


@_order.register_fake
def _(scores: Tensor, slots: Tensor) -> Tensor:
    return torch.empty_like(slots)


def k_nearest(
    queries: Float[Tensor, "batch key_dim"],
    keys: Float[Tensor, "slots key_dim"],
    near: Bool[Tensor, "batch slots"],
    k: int,
) -> Int64[Tensor, "batch k"]:
    """The k best of the slots marked `near` for each query, in the one order, EMPTY after them."""
    # Row by row, then slot by slot: the stable sorts below keep the lower slot first in a tie.
    rows, slots = near.nonzero(as_tuple=True)
    scores = torch.cat(
        [
            dot(queries[some], keys[slots_of_some])
            for some, slots_of_some in zip(
                rows.split(_PAIRS_AT_ONCE), slots.split(_PAIRS_AT_ONCE), strict=True
            )
        ]
    )
    by_score = scores.argsort(descending=True, stable=True)
    in_order = by_score[rows[by_score].argsort(stable=True)]
    rows, slots = rows[in_order], slots[in_order]
    found = near.sum(1)
    place = torch.arange(len(rows), device=rows.device) - (found.cumsum(0) - found)[rows]
    kept = place < k
    chosen = slots.new_full((len(queries), k), EMPTY)
    chosen[rows[kept], place[kept]] = slots[kept]
    return chosen


def nearest_slot(
    queries: Float[Tensor, "batch key_dim"],
    keys: Float[Tensor, "slots key_dim"],
    scores: Float[Tensor, "batch slots"],
    floor: float,
) -> Int64[Tensor, " batch"]:
    """The best slot of each row of rounded scores, or EMPTY where all are below the floor.

    The scores are used up.
    """
    highest = scores.amax(1, keepdim=True)
    slots = _argmax(scores)
    threshold = (highest - tolerance(keys)).clamp(min=floor)
    # A runner-up within rounding is rare; without one, the matrix product has decided rightly.
    runner_up = scores.scatter_(1, slots, -torch.inf).amax(1, keepdim=True)
    if (runner_up >= threshold).any():
        near = scores.scatter_(1, slots, highest) >= threshold
        return k_nearest(queries, keys, near, 1).squeeze(1)
    return slots.masked_fill(highest < floor, EMPTY).squeeze(1)


def numpy_can_read(scores: Tensor) -> bool:
    """Whether NumPy can look at the scores where they are."""
    return scores.device.type == "cpu" and scores.dtype != torch.bfloat16


def _argmax(scores: Tensor) -> Tensor:
    if numpy_can_read(scores):
        # NumPy's is vectorised, and five times as fast as torch's.
        return torch.from_numpy(scores.numpy().argmax(1, keepdims=True))
    return scores.argmax(1, keepdim=True)
