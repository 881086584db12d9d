"""Whether a tensor has changed since it was last looked at."""

import weakref
from typing import Any

import torch
from torch import Tensor


class Watch:
    """One tensor as it was: who has a copy of it asks here whether the copy still holds.

    Torch counts the in-place changes of a tensor. Changes that it does not count, through NumPy or
    `.data[...]`, are not seen; in inference mode it counts none, and nothing is known there. A
    compiled program has no count to ask, and takes it for unchanged. Copies know nothing yet.

    Example:
        >>> keys, watch = torch.zeros(2), Watch()
        >>> watch.look(keys)
        >>> watch.knows(keys), watch.knows(keys.clone()), watch.knows(keys.add_(1))
        (True, False, False)
    """

    def __init__(self) -> None:
        self._tensor: weakref.ref[Tensor] | None = None
        self._stamp: tuple[int, int] | None = None

    def look(self, tensor: Tensor) -> None:
        """From now on this is the tensor, as it is."""
        if torch.compiler.is_compiling():
            return
        self._tensor = weakref.ref(tensor)
        self._stamp = _stamp(tensor)

    def knows(self, tensor: Tensor) -> bool:
        """Whether it is the same tensor, and nothing has happened to it."""
        if torch.compiler.is_compiling():
            return True
        same = self._tensor is not None and self._tensor() is tensor
        return same and self._stamp is not None and self._stamp == _stamp(tensor)

    def __getstate__(self) -> dict[str, Any]:
        return {"_tensor": None, "_stamp": None}


def _stamp(tensor: Tensor) -> tuple[int, int] | None:
    """Where it lies and how often it changed there; None where torch does not count."""
    return None if tensor.is_inference() else (tensor.data_ptr(), tensor._version)
