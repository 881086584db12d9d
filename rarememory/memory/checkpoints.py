"""Checkpoints: a memory is loaded whole or not at all, and one of another size as if resized."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from rarememory.base.state import MemoryState
from rarememory.memory.slots import SlotBuffers, state_of


def stored_parts(
    state_dict: Mapping[str, Any], prefix: str, names: Iterable[str]
) -> dict[str, Any]:
    """What a state_dict has under `prefix` by these names; nothing if it has none of them.

    Raises:
        ValueError: it has some of them only. Torch would load those.
    """
    names = [*names]
    stored = {name: state_dict[prefix + name] for name in names if prefix + name in state_dict}
    missing = [name for name in names if name not in stored]
    if stored and missing:
        raise ValueError(f"the checkpoint's memory has no {' and no '.join(missing)}")
    return stored


def fitted(
    stored: Mapping[str, Tensor], own: SlotBuffers, kept: Callable[[MemoryState, int], Tensor]
) -> dict[str, Tensor]:
    """The per-slot buffers of a stored memory, resized to as many slots as our own have.

    Args:
        stored: all buffers of the memory.
        own: the buffers of the memory that they are for.
        kept: the rule of resizing, `Memory.kept_slots`.

    Raises:
        ValueError: one has another width than ours, or is not of as many slots as its values.
    """
    for name, buffer in own.tensors.items():
        if stored[name].shape[1:] != buffer.shape[1:]:
            width, wanted = (" x ".join(map(str, it.shape[1:])) for it in (stored[name], buffer))
            raise ValueError(
                f"the checkpoint's {name} have width {width}, and this memory's {wanted}"
            )
        if stored[name].shape[:1] != stored["values"].shape:
            raise ValueError(f"the checkpoint's {name} are not of as many slots as its values")
    theirs = {name: stored[name] for name in own.tensors}
    memory_size = len(own.tensors["values"])
    if len(stored["values"]) == memory_size:
        return theirs
    return SlotBuffers(theirs, own.fills).moved(kept(state_of(stored), memory_size))


def keep_own(state_dict: dict[str, Any], prefix: str, own: Mapping[str, Tensor]) -> None:
    """Put our own tensors in place of those of a state_dict, so that loading it changes nothing."""
    for name, tensor in own.items():
        if prefix + name in state_dict:
            state_dict[prefix + name] = tensor
