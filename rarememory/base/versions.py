"""Whether a tensor has changed since it was last recorded."""

import weakref
from typing import Any

import torch
from torch import Tensor


class VersionTracker:
    """Records one tensor, and says later whether a copy of it is still valid.

    Torch counts the in-place changes of a tensor. Changes that it does not count, through NumPy,
    `.data[...]` or a collective, are not seen (`rarememory.base.spot_checks` looks for them); in
    inference mode it counts none, and every tensor counts as changed. A compiled program has no
    counts, and takes any tensor for unchanged. A copy or pickle of a tracker has recorded nothing.

    Example:
        >>> keys, tracker = torch.zeros(2), VersionTracker()
        >>> tracker.record(keys)
        >>> tracker.is_unchanged(keys), tracker.is_unchanged(keys.clone())
        (True, False)
        >>> tracker.is_unchanged(keys.add_(1))
        False
    """

    def __init__(self) -> None:
        self._tensor: weakref.ref[Tensor] | None = None
        self._stamp: tuple[int, int] | None = None

    def record(self, tensor: Tensor) -> None:
        """Record this tensor as it is now."""
        if torch.compiler.is_compiling():
            return
        self._tensor = weakref.ref(tensor)
        self._stamp = _stamp(tensor)

    def is_unchanged(self, tensor: Tensor) -> bool:
        """Whether this is the recorded tensor, and it has not changed since."""
        if torch.compiler.is_compiling():
            return True
        same = self._tensor is not None and self._tensor() is tensor
        return same and self._stamp is not None and self._stamp == _stamp(tensor)

    def __getstate__(self) -> dict[str, Any]:
        return {"_tensor": None, "_stamp": None}


def _stamp(tensor: Tensor) -> tuple[int, int] | None:
    """Its address and its count of in-place changes; None where torch does not count."""
    return None if tensor.is_inference() else (tensor.data_ptr(), tensor._version)
