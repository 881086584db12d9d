"""A copy of the keys in float16: half as many bytes for a search to read."""

from typing import Any

import torch
from jaxtyping import Float, Float16, Int64
from torch import Tensor, nn

from rarememory.base.caches import Cache
from rarememory.base.spot_checks import SpotCheck, record_uncounted_change
from rarememory.base.versions import VersionTracker


class HalfPrecisionCopy(Cache, nn.Module):
    """A copy of the keys in float16, kept up to date and never saved.

    A component of a unit vector is below 1, so float16 keeps it to 2^-12, and a score to 2^-10: a
    search reads the copy, and decides by the keys themselves where that is not enough.

    Example:
        >>> keys = torch.eye(3)
        >>> copy = HalfPrecisionCopy(keys)
        >>> keys[0] *= -1
        >>> copy.of(keys)[0, 0]
        tensor(-1., dtype=torch.float16)
    """

    keys: Tensor

    def __init__(self, keys: Float[Tensor, "slots key_dim"]) -> None:
        nn.Module.__init__(self)
        Cache.__init__(self)
        self.register_buffer("keys", keys.half(), persistent=False)
        self._rows = SpotCheck()
        self.tracker.record(keys)

    @torch.no_grad()
    def of(self, keys: Float[Tensor, "slots key_dim"]) -> Float16[Tensor, "slots key_dim"]:
        """The copy; all of it is made again if the keys have changed in an unreported way.

        A change that torch does not count is found when a row of it is compared, one at each call;
        on a GPU the host would wait for that, and `Memory.sync` has to tell.
        """
        self._look_at_a_row(keys)
        if not self.tracker.is_unchanged(keys):
            if self._can_copy_in_place(keys):
                self.keys.copy_(keys)
            else:
                self.keys = keys.half()
            self.tracker.record(keys)
        return self.keys

    def _look_at_a_row(self, keys: Tensor) -> None:
        if not self.tracker.is_unchanged(keys):
            return
        row = self._rows.next(keys)
        if row is not None and not torch.equal(self.keys[row], keys[row].half()):
            record_uncounted_change(keys)

    @torch.no_grad()
    def update(self, keys: Float[Tensor, "slots key_dim"], slots: Int64[Tensor, " listed"]) -> None:
        """Copy the keys of these slots again. (For EMPTY it copies the last, which is harmless.)"""
        slots = slots.reshape(-1) % len(keys)
        self.keys.index_copy_(0, slots, keys[slots].half())

    def _can_copy_in_place(self, keys: Tensor) -> bool:
        """A tensor made in inference mode can be changed in that mode only."""
        if (self.keys.shape, self.keys.device) != (keys.shape, keys.device):
            return False
        if torch.compiler.is_compiling():
            return True
        return torch.is_inference_mode_enabled() or not self.keys.is_inference()

    def _apply(self, *args: Any, **kwargs: Any) -> "HalfPrecisionCopy":
        # `.to(dtype)` is meant for the keys: the copy stays float16, and is made again.
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.keys, self.tracker = self.keys.half(), VersionTracker()
        return self
