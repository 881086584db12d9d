"""Where the Triton searches of the tests run: on a GPU if there is one, else in the interpreter."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def device() -> Iterator[str]:
    """Every tensor of the test is made where the kernels run."""
    name = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(name):
        yield name
