"""The keys once more in float16: half the bytes for a search to stream, never the last word."""

from typing import Any

import torch
from jaxtyping import Float, Float16, Int64
from torch import Tensor, nn

from rarememory.base.versions import VersionTracker


class HalfPrecisionCopy(nn.Module):
    """A copy of the keys in float16, kept in step with them and never saved.

    A component of a unit vector is below 1, so float16 keeps it to 2^-12, and a score to 2^-10: a
    search reads the copy and settles what that leaves open by the keys themselves. The memory
    reports what it changes; outside of compiled programs, any other change is seen by its
    `VersionTracker`.

    Example:
        >>> keys = torch.eye(3)
        >>> copy = HalfPrecisionCopy(keys)
        >>> keys[0] *= -1
        >>> copy.of(keys)[0, 0]
        tensor(-1., dtype=torch.float16)
    """

    keys: Tensor

    def __init__(self, keys: Float[Tensor, "slots key_dim"]) -> None:
        super().__init__()
        self.register_buffer("keys", keys.half(), persistent=False)
        self._tracker = VersionTracker()
        self._tracker.record(keys)
        self._following = False

    def of(self, keys: Float[Tensor, "slots key_dim"]) -> Float16[Tensor, "slots key_dim"]:
        """The copy, made anew if the keys have changed without a word."""
        if not self._tracker.is_unchanged(keys):
            self.follow(keys)
        return self.keys

    def before_write(self, keys: Float[Tensor, "slots key_dim"]) -> None:
        """A write comes: what happens to the keys from here to `after_write` is told there."""
        self._following = self._tracker.is_unchanged(keys)

    def after_write(
        self, keys: Float[Tensor, "slots key_dim"], slots: Int64[Tensor, " rows"]
    ) -> None:
        """The write has changed these slots and no other; EMPTY is none."""
        self.follow(keys, slots if self._following else None)

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
        self._tracker.record(keys)

    def _fits(self, keys: Tensor) -> bool:
        """Whether the copy can be changed in place: one made in inference mode only within it."""
        if (self.keys.shape, self.keys.device) != (keys.shape, keys.device):
            return False
        if torch.compiler.is_compiling():
            return True
        return torch.is_inference_mode_enabled() or not self.keys.is_inference()

    def _apply(self, *args: Any, **kwargs: Any) -> "HalfPrecisionCopy":
        # Another float type is for the keys; where they go, the copy is made anew.
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.keys, self._tracker = self.keys.half(), VersionTracker()
        return self
