"""The keys once more in float16: half the bytes for a search to stream, never the last word."""

from typing import Any

import torch
from jaxtyping import Float, Float16, Int64
from torch import Tensor, nn


class Shadow(nn.Module):
    """A copy of the keys in float16, kept in step with them and never saved.

    A component of a unit vector is below 1, so float16 keeps it to 2^-12, and a score to 2^-10: a
    search streams the copy and settles what that leaves open by the keys themselves. Who changes
    the keys says so through `follow`; a change behind its back is seen by their version counter.

    Example:
        >>> keys = torch.eye(3)
        >>> shadow = Shadow(keys)
        >>> keys[0] *= -1
        >>> shadow.of(keys)[0, 0]
        tensor(-1., dtype=torch.float16)
    """

    keys: Tensor

    def __init__(self, keys: Float[Tensor, "slots key_dim"]) -> None:
        super().__init__()
        self.register_buffer("keys", keys.half(), persistent=False)
        self.version = _version(keys)

    def of(self, keys: Float[Tensor, "slots key_dim"]) -> Float16[Tensor, "slots key_dim"]:
        """The copy, made anew if the keys have changed without a word."""
        if torch.compiler.is_compiling():
            return self.keys
        if self.version != _version(keys):
            self.follow(keys)
        return self.keys

    @torch.no_grad()
    def follow(
        self, keys: Float[Tensor, "slots key_dim"], slots: Int64[Tensor, "*rows"] | None = None
    ) -> None:
        """Copy the keys of these slots, or of all. (Of EMPTY it copies the last, to no harm.)"""
        if self.keys.shape != keys.shape or self.keys.device != keys.device:
            self.keys = keys.half()
        elif slots is None:
            self.keys.copy_(keys)
        else:
            slots = slots.reshape(-1) % len(keys)
            self.keys.index_copy_(0, slots, keys[slots].half())
        if not torch.compiler.is_compiling():
            self.version = _version(keys)

    def _apply(self, *args: Any, **kwargs: Any) -> "Shadow":
        # Another float type is for the keys; where they go, the copy is made anew.
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.keys, self.version = self.keys.half(), None
        return self

    def __getstate__(self) -> dict[str, Any]:
        # The counter of another tensor means nothing.
        return {**self.__dict__, "version": None}


def _version(keys: Tensor) -> object:
    """What changes when the keys do; in inference mode nothing tells, so it is never the same."""
    return object() if keys.is_inference() else keys._version
