"""Numbers that a user passes, refused in a sentence when they cannot be meant."""

import math
from numbers import Integral, Real

import torch


def check_count(name: str, number: object) -> None:
    """An integer of at least 1."""
    if not isinstance(number, Integral) or int(number) < 1:
        raise ValueError(f"{name} must be an integer of at least 1, not {number}")


def check_not_negative(name: str, number: object) -> None:
    """A number, 0 or greater."""
    if not isinstance(number, Real) or not float(number) >= 0:
        raise ValueError(f"{name} must be 0 or a positive number, not {number}")


def check_finite(name: str, number: object) -> None:
    """A finite number, 0 or greater."""
    check_not_negative(name, number)
    if number == math.inf:
        raise ValueError(f"{name} must be a finite number, not {number}")


def check_positive(name: str, number: object) -> None:
    """A number greater than 0."""
    if not isinstance(number, Real) or not float(number) > 0:
        raise ValueError(f"{name} must be a positive number, not {number}")


def check_seed(seed: object) -> None:
    """An integer that fits into 64 bits."""
    if not isinstance(seed, Integral) or not -(2**63) <= int(seed) < 2**63:
        raise ValueError(f"seed must be an integer of 64 bits, not {seed}")


def check_key_dtype(dtype: object) -> None:
    """A float type that keys can be kept in."""
    if dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(
            f"key_dtype must be torch.float32, float64, float16 or bfloat16, not {dtype}"
        )
