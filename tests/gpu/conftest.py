"""The device of these tests: a GPU if there is one, else the CPU, where they hold as well."""

import pytest
import torch


@pytest.fixture
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def rounding(device: str) -> dict[str, float]:
    """How far two devices may be apart in a score: they add in other orders."""
    return {"rtol": 1e-5, "atol": 1e-5} if device == "cuda" else {"rtol": 1e-6, "atol": 1e-6}
