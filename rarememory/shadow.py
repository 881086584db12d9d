"""The keys once more in float16: half the bytes for a search to stream, never the last word."""

import weakref
from typing import Any

import torch
from jaxtyping import Float, Float16, Int64
from torch import Tensor, nn


class Shadow(nn.Module):
    """A copy of the keys in float16, kept in step with them and never saved.

    A component of a unit vector is below 1, so float16 keeps it to 2^-12, and a score to 2^-10: a
    search streams the copy and settles what that leaves open by the keys themselves. The memory
    says through `follow` what it changes; outside of compiled programs, any other change is seen by
    the keys' version counter.

    Example:
        >>> keys = torch.eye(3)
        >>> shadow = Shadow(keys)
        >>> keys[0] *= -1
        >>> shadow.of(keys)[0, 0]
        tensor(-1., dtype=torch.float16)
    """

    keys: Tensor
    _of: "weakref.ref[Tensor] | None"

    def __init__(self, keys: Float[Tensor, "slots key_dim"]) -> None:
        super().__init__()
        self.register_buffer("keys", keys.half(), persistent=False)
        self._seen(keys)

    def of(self, keys: Float[Tensor, "slots key_dim"]) -> Float16[Tensor, "slots key_dim"]:
        """The copy, made anew if the keys have changed without a word."""
        if not torch.compiler.is_compiling() and not self._knows(keys):
            self.follow(keys)
        return self.keys

    @torch.no_grad()
    def follow(
        self, keys: Float[Tensor, "slots key_dim"], slots: Int64[Tensor, "*rows"] | None = None
    ) -> None:
        """Copy the keys of these slots, or of all. (Of EMPTY it copies the last, to no harm.)"""
        if not self._fits(keys):
            self.keys = keys.half()
        elif slots is None:
            self.keys.copy_(keys)
        else:
            slots = slots.reshape(-1) % len(keys)
            self.keys.index_copy_(0, slots, keys[slots].half())
        if not torch.compiler.is_compiling():
            self._seen(keys)

    def _fits(self, keys: Tensor) -> bool:
        """Whether the copy can be changed in place: one made in inference mode only within it."""
        if (self.keys.shape, self.keys.device) != (keys.shape, keys.device):
            return False
        if torch.compiler.is_compiling():
            return True
        return torch.is_inference_mode_enabled() or not self.keys.is_inference()

    def _seen(self, keys: Tensor) -> None:
        self._of = weakref.ref(keys)
        self._stamp = _stamp(keys)

    def _knows(self, keys: Tensor) -> bool:
        same = self._of is not None and self._of() is keys
        return same and self._stamp is not None and self._stamp == _stamp(keys)

    def _apply(self, *args: Any, **kwargs: Any) -> "Shadow":
        # Another float type is for the keys; where they go, the copy is made anew.
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.keys, self._of = self.keys.half(), None
        return self

    def __getstate__(self) -> dict[str, Any]:
        # The copy of another tensor is none of ours.
        return {**self.__dict__, "_of": None}


def _stamp(keys: Tensor) -> int | None:
    """How often the keys have changed in place; None where torch does not count."""
    return None if keys.is_inference() else keys._version
