"""The memory's own randomness: a number for every slot and every write, and no state but a seed.

SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators") gives its
n-th number without the ones before. So the noise is a function of (seed, clock, slot): it is the
same on every device, resumes exactly, and never touches torch's generators.
"""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from rarememory import native


def slot_noise(
    seed: Int64[Tensor, ""],
    clock: Int64[Tensor, ""],
    memory_size: int,
    first: int = 0,
    count: int | None = None,
) -> Float64[Tensor, " slots"]:
    """Uniform numbers in [-1, 1), one a slot, for the write that follows `clock` writes.

    They are the numbers clock * memory_size, ... of the SplitMix64 sequence of `seed`; those of
    `count` slots from the `first` on, if not of all.

    Example:
        >>> slot_noise(torch.tensor(0), torch.tensor(3), 5).abs().max() < 1
        tensor(True)
    """
    count = memory_size - first if count is None else count
    if native.is_supported(seed, clock):
        noise = native.empty_output(count, dtype=torch.float64)
        begin = sequence_of(seed, clock, memory_size, first)
        native.library().rarememory_noise(begin, count, noise.data_ptr())
        return noise
    place = clock * memory_size + first + 1
    # The place is added before the product: of arange * constant, inductor (torch 2.15) makes an
    # index that overflows, and its program then writes where it must not.
    z = (torch.arange(count, device=clock.device) + place) * _GAMMA + seed
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return _shifted(z ^ _shifted(z, 31), 11).double() * 2.0**-52 - 1.0


def sequence_of(
    seed: Int64[Tensor, ""], clock: Int64[Tensor, ""], memory_size: int, first: int = 0
) -> int:
    """The state of SplitMix64 before the number of slot `first`; on a GPU the host waits for it."""
    return (seed + (clock * memory_size + first + 1) * _GAMMA).item()  # type: ignore[return-value]


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shift to the right that brings in zeros, which torch has for no signed type."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(constant: int) -> int:
    """The same 64 bits as torch's int64 has them, in which products wrap around."""
    return constant - 2**64 if constant >= 2**63 else constant


_GAMMA = _signed(0x9E3779B97F4A7C15)
