"""Whether two models are one encoder: a hash of the weights."""

import hashlib

import torch
from torch import Tensor, nn

from rarememory.base.versions import VersionTracker
from rarememory.classifier.wrappers import unwrapped


class EncoderHash:
    """The hash of a model's weights and buffers, computed again when one of them has changed.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> encoder = EncoderHash(model)
        >>> before = encoder.value()
        >>> encoder.value() == before == EncoderHash(model).value()
        True
        >>> with torch.no_grad():
        ...     _ = model.weight.mul_(2.0)
        >>> encoder.value() == before
        False
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = unwrapped(model)
        self._hash = ""
        self._trackers: list[VersionTracker] = []

    def value(self) -> str:
        """SHA-256 of names, types, shapes and numbers, in hexadecimal."""
        named = self._model.state_dict(keep_vars=True)
        tensors = {name: part for name, part in named.items() if isinstance(part, Tensor)}
        pairs = list(zip(self._trackers, tensors.values(), strict=False))
        same = len(pairs) == len(tensors) and all(t.is_unchanged(part) for t, part in pairs)
        if not same or not self._hash:
            self._trackers = [VersionTracker() for _ in tensors]
            for tracker, tensor in zip(self._trackers, tensors.values(), strict=True):
                tracker.record(tensor)
            self._hash = _hash(tensors)
        return self._hash


def _hash(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        row = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(row.view(torch.uint8).numpy().data)
    return digest.hexdigest()
