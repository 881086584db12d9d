"""Forgetting: which slots meet every condition given."""

from collections.abc import Iterable

import torch
from jaxtyping import Bool
from torch import Tensor

from rarememory.base.state import MemoryState
from rarememory.base.validation import check_not_negative
from rarememory.memory.spans import Span

Integers = int | Iterable[int] | Tensor


def meets(
    state: MemoryState,
    *,
    labels: Integers | None,
    slots: Integers | None,
    older_than: int | None,
    span: Span | None = None,
) -> Bool[Tensor, " slots"]:
    """The occupied slots that meet every condition given; at least one has to be.

    Where the state holds a span of the memory only, `slots` are those of the whole memory.

    Raises:
        ValueError: no condition is given, a slot does not exist, or `older_than` is negative.
    """
    if labels is None and slots is None and older_than is None:
        raise ValueError("say what to forget: labels, slots or older_than; or clear() it all")
    gone = state.occupied
    if labels is not None:
        gone &= torch.isin(state.values, _integers("labels", labels, state))
    if slots is not None:
        chosen = _integers("slots", slots, state)
        first, size = (span.first, span.memory_size) if span else (0, len(state.values))
        outside = chosen[(chosen < 0) | (chosen >= size)].tolist()
        if outside:
            raise ValueError(f"slots {outside} do not exist: this memory has 0 to {size - 1}")
        here = chosen[(chosen >= first) & (chosen < first + len(gone))] - first
        gone &= torch.zeros_like(gone).index_fill_(0, here, True)
    if older_than is not None:
        check_not_negative("older_than", older_than)
        # No age is more than an integer of 64 bits.
        gone &= state.ages > min(older_than, 2**63 - 1)
    return gone


def _integers(name: str, numbers: Integers, state: MemoryState) -> Tensor:
    if not isinstance(numbers, Tensor):
        listed = list(numbers) if isinstance(numbers, Iterable) else [numbers]
        try:
            numbers = torch.tensor(listed) if listed else torch.zeros(0, dtype=torch.int64)
        except (RuntimeError, TypeError, ValueError):
            raise ValueError(f"{name} to forget must be integers, not {listed}") from None
    if numbers.is_floating_point() or numbers.dtype == torch.bool:
        raise ValueError(f"{name} to forget must be integers, not {numbers.dtype}")
    return numbers.to(state.values.device, torch.int64).reshape(-1)
