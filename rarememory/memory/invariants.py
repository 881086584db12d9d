"""What holds of the state of every memory, checked before a stored one is taken.

Whatever is loaded comes by here: a file, a checkpoint, a repository of the Hub.
"""

from collections.abc import Container, Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

from rarememory.base.state import EMPTY, MemoryState
from rarememory.base.validation import FLOATS
from rarememory.memory.slots import state_of
from rarememory.memory.usage import Usage

UNIT = 0.01
"""Lengths of keys may differ from 1 by so much: bfloat16, the coarsest type of keys, needs it."""
LAST = 2**62
"""The clock of a memory is below this."""


def check_state(stored: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not the state of a memory.

    Keys are floats of unit length, and zero where the slot is empty; values are integers, EMPTY or
    at least 0; no slot was written before the first write or after the last, and where usage is
    counted, none answered after the last read. All other tensors of floats are finite. Tensors of
    the device "meta" have no numbers to check.

    Args:
        stored: those of `MemoryState`, and whatever the memory has beside them, by their names.

    Raises:
        ValueError: the slots that are wrong, and what they must be.

    Example:
        >>> from rarememory import Memory
        >>> state = Memory(key_dim=2, memory_size=3).state_dict()
        >>> check_state(state)
        >>> check_state({**state, "values": torch.tensor([7, -1, -1])})
        Traceback (most recent call last):
            ...
        ValueError: keys must be of length 1; those of slots [0] are not
    """
    for name, tensor in stored.items():
        _check_type(name, tensor)
    state = state_of(stored)
    slots = len(state.values)
    for name, dims in _DIMS.items():
        shape = list(stored[name].shape)
        if len(shape) != dims or (dims and shape[0] != slots):
            raise ValueError(f"{name} have the shape {shape}, which does not fit {slots} slots")
    if any(tensor.is_meta for tensor in stored.values()):
        return
    for name, tensor in stored.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} must be finite, and some are infinite or NaN")
    _refuse(state.values < EMPTY, f"values must be at least 0, or {EMPTY} for none")
    lengths = torch.linalg.vector_norm(state.keys, dim=1, dtype=_wide(state.keys))
    off = state.occupied & ((lengths - 1).abs() > UNIT)
    _refuse(off, "keys must be of length 1")
    _refuse(~state.occupied & (state.keys != 0).any(1), "keys of empty slots must be zero")
    clock = int(state.clock)
    if not 0 <= clock < LAST:
        raise ValueError(f"the clock must be from 0 to 2^62, not {clock}")
    late = (state.written < 0) | (state.written > clock)
    _refuse(late, f"writes must be from 0 to {clock}, the last")
    if set(Usage._fields) <= stored.keys():
        uses, used, reads = (stored[name] for name in Usage._fields)
        _refuse(uses < 0, "uses must be at least 0")
        _refuse((used < 0) | (used > reads), f"used must be from 0 to {reads}, the last read")


def is_dense(part: object) -> bool:
    """Whether this is a tensor of numbers that lie side by side, as those of a memory do.

    Example:
        >>> is_dense(torch.eye(2)), is_dense(torch.eye(2).to_sparse()), is_dense(7)
        (True, False, False)
    """
    if not isinstance(part, Tensor) or part.layout != torch.strided:
        return False
    return not (part.is_nested or part.is_quantized)


def check_fits(own: Mapping[str, Tensor], stored: Mapping[str, object]) -> None:
    """Refuse those stored tensors that cannot be copied into our own of the same name.

    Raises:
        ValueError: one is not dense, has another shape, or has no numbers.

    Example:
        >>> check_fits({"keys": torch.zeros(2, 3)}, {"keys": torch.zeros(2, 4)})
        Traceback (most recent call last):
        ValueError: keys must be [2, 3], not [2, 4]
    """
    for name, tensor in own.items():
        part = stored.get(name, tensor)
        if not isinstance(part, Tensor) or not is_dense(part):
            raise ValueError(f"{name} must be a dense tensor")
        if part.shape != tensor.shape:
            raise ValueError(f"{name} must be {list(tensor.shape)}, not {list(part.shape)}")
        if part.is_meta and not tensor.is_meta:
            raise ValueError(f"{name} must have numbers, which tensors on meta have not")


def check_like(
    own: Mapping[str, Tensor], stored: Mapping[str, Tensor], per_slot: Container[str]
) -> None:
    """Refuse stored tensors of another kind than our own of the same name.

    Args:
        own: the tensors of a memory.
        stored: those that are to take their place.
        per_slot: names of those that may have more or fewer slots.

    Raises:
        ValueError: one has other numbers, has none, or has another shape.

    Example:
        >>> own = {"keys": torch.zeros(2, 3), "clock": torch.tensor(0)}
        >>> check_like(own, {"keys": torch.zeros(4, 3)}, per_slot=["keys"])
        >>> check_like(own, {"clock": torch.zeros(2).long()}, per_slot=["keys"])
        Traceback (most recent call last):
        ValueError: clock must be [], not [2]
    """
    for name, tensor in own.items():
        if (part := stored.get(name)) is None:
            continue
        if part.is_complex() or part.is_floating_point() != tensor.is_floating_point():
            raise ValueError(f"{name} must be like {tensor.dtype}, not {part.dtype}")
        if part.is_meta and not tensor.is_meta:
            raise ValueError(f"{name} must have numbers, which tensors on meta have not")
        if name not in per_slot and part.shape != tensor.shape:
            raise ValueError(f"{name} must be {list(tensor.shape)}, not {list(part.shape)}")


_DIMS = {"keys": 2, "values": 1, "written": 1, "clock": 0, "seed": 0}


def _check_type(name: str, tensor: Tensor) -> None:
    if not is_dense(tensor):
        raise ValueError(f"{name} must be a dense tensor")
    whole = name in (*MemoryState._fields, *Usage._fields) and name != "keys"
    if whole and tensor.dtype != torch.int64:
        raise ValueError(f"{name} must be int64, not {tensor.dtype}")
    if name == "keys" and tensor.dtype not in FLOATS:
        raise ValueError(f"keys must be of a float type, not {tensor.dtype}")


def _wide(keys: Tensor) -> torch.dtype:
    return torch.float64 if keys.dtype == torch.float64 else torch.float32


def _refuse(wrong: Bool[Tensor, " slots"], rule: str) -> None:
    slots = wrong.nonzero().squeeze(1).tolist()
    if slots:
        more = f" and {len(slots) - 8} more" if len(slots) > 8 else ""
        raise ValueError(f"{rule}; those of slots {slots[:8]}{more} are not")
