"""Numbers that a user passes, refused in a sentence when they cannot be meant."""

import math
from numbers import Integral, Real
from typing import Any

import torch

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""The float types that torch computes with; those of a byte only hold numbers."""


def check_count(name: str, number: Any) -> None:
    """An integer of at least 1, of at most 64 bits."""
    if not _is_a(Integral, number) or not 1 <= int(number) < 2**63:
        raise ValueError(f"{name} must be an integer of at least 1, not {number!r}")


def check_real(name: str, number: Any) -> None:
    """A finite number, of either sign."""
    if not _is_a(Real, number) or not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number, not {number!r}")


def check_not_negative(name: str, number: Any) -> None:
    """A number, 0 or greater."""
    if not _is_a(Real, number) or not float(number) >= 0:
        raise ValueError(f"{name} must be 0 or a positive number, not {number!r}")


def check_finite(name: str, number: Any) -> None:
    """A finite number, 0 or greater."""
    check_not_negative(name, number)
    if float(number) == math.inf:
        raise ValueError(f"{name} must be a finite number, not {number!r}")


def check_positive(name: str, number: Any) -> None:
    """A number greater than 0."""
    if not _is_a(Real, number) or not float(number) > 0:
        raise ValueError(f"{name} must be a positive number, not {number!r}")


def check_temperature(number: Any) -> None:
    """A number that float32 holds, and may divide by: smaller ones count as 0 there."""
    check_positive("temperature", number)
    if not _FLOAT32.tiny <= float(number) <= _FLOAT32.max:
        raise ValueError(
            f"temperature must be from {_FLOAT32.tiny:.3g} to {_FLOAT32.max:.3g}, the range of "
            f"float32, not {number}"
        )


def check_seed(seed: Any) -> None:
    """An integer that fits into 64 bits."""
    if not _is_a(Integral, seed) or not -(2**63) <= int(seed) < 2**63:
        raise ValueError(f"seed must be an integer of 64 bits, not {seed!r}")


def check_key_dtype(dtype: object) -> None:
    """A float type that keys can be kept in."""
    if dtype not in FLOATS:
        raise ValueError(
            f"key_dtype must be torch.float32, float64, float16 or bfloat16, not {dtype}"
        )


_FLOAT32 = torch.finfo(torch.float32)


def _is_a(kind: Any, number: Any) -> bool:
    """Whether this is a number of the kind; True and False are integers to Python, not to us.

    An integer that no float holds is too great for whatever is counted or measured here.
    """
    if not isinstance(number, kind) or isinstance(number, bool):
        return False
    try:
        float(number)
    except OverflowError:
        return False
    return True
