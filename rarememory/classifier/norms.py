"""Lengths of features, beside keys that have none: columns of a table may tell classes by them.

A memory has keys of unit length. Beside those of a memory that a classifier makes itself stands the
length of the features that each was, in a buffer with an entry for each slot, so that a reader can
have the features themselves.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from rarememory.memory import Memory

NORMS = "norms"
_SHORTEST, _LONGEST = 1e-15, 1e15
"""Between these, squares are float32 too; what is shorter or longer counts as so long."""


def norms_of(features: Float[Tensor, "rows key_dim"]) -> Float[Tensor, " rows"]:
    """The length of each row, within what can be squared; NaN and zero rows are not of this kind.

    Example:
        >>> norms_of(torch.tensor([[3.0, 4.0], [3e38, 3e38]]))
        tensor([5.0000e+00, 1.0000e+15])
    """
    wide = features
    if features.dtype != torch.float32:
        wide = features.to(torch.promote_types(features.dtype, torch.float32))
    norms: Tensor = torch.linalg.vector_norm(wide, dim=1).clamp(_SHORTEST, _LONGEST)
    return norms


def add_norms(memory: Memory) -> None:
    """Give a memory the buffer; what it holds already counts as of length 1.

    Example:
        >>> memory = Memory(key_dim=2, memory_size=3)
        >>> add_norms(memory)
        >>> slots = memory.write(torch.tensor([[3.0, 4.0]]), torch.tensor([7])).slots
        >>> put_norms(memory, slots, torch.tensor([5.0]))
        >>> remembered_features(memory, slots)
        tensor([[3., 4.]])
    """
    memory.register_slot_buffer(NORMS, fill=1.0)


def match_norms(memory: Memory, like: Memory) -> None:
    """Let a memory remember lengths if the other one does, 1 where they are not known."""
    if hasattr(like, NORMS) and not hasattr(memory, NORMS):
        add_norms(memory)
    elif hasattr(memory, NORMS) and not hasattr(like, NORMS):
        memory.remove_slot_buffer(NORMS)


def has_norms(memory: Memory) -> bool:
    """Whether the memory remembers lengths of features; one that projects them has other keys."""
    return hasattr(memory, NORMS) and memory.projection is None


def put_norms(
    memory: Memory, slots: Int64[Tensor, " rows"] | int, norms: Float[Tensor, " rows"]
) -> None:
    """Remember these lengths of what was written into the slots, if the memory does."""
    if has_norms(memory):
        buffer = getattr(memory, NORMS)
        buffer[slots] = norms.to(buffer.dtype) if isinstance(slots, Tensor) else norms[0]


def remembered_features(
    memory: Memory, slots: Int64[Tensor, " slots"]
) -> Float[Tensor, "slots key_dim"]:
    """The features that were written into the slots; their keys where lengths are not known."""
    keys = memory.keys[slots]
    return keys * memory.get_buffer(NORMS)[slots].unsqueeze(1) if has_norms(memory) else keys


def adopt_norms(memory: Memory, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Give a checkpoint the lengths that the memory has and it has not, or take them from it.

    Args:
        memory: that is to be loaded.
        state_dict: the checkpoint, changed in place.
        prefix: of the memory's names in it.
    """
    keys, name = state_dict.get(f"{prefix}keys"), f"{prefix}{NORMS}"
    if not hasattr(memory, NORMS):
        state_dict.pop(name, None)
    elif isinstance(keys, Tensor) and name not in state_dict:
        state_dict[name] = torch.ones(len(keys), device=keys.device)


def check_norms(stored: Mapping[str, Shaped[Tensor, "..."]]) -> None:
    """Refuse lengths that no features have.

    Raises:
        ValueError: one is 0, negative, infinite or NaN, or there is not one for each slot.
    """
    norms = stored.get(NORMS)
    if norms is None:
        return
    if norms.shape != stored["values"].shape or not norms.is_floating_point():
        raise ValueError("its norms must be a float for each slot")
    if not norms.is_meta and not ((norms > 0) & norms.isfinite()).all():
        raise ValueError("its norms must be positive and finite")
