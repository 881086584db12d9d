"""Every test starts from the same randomness and uses a few threads.

Nothing of rarememory is imported here, before a test asks for it.
"""

import os
from collections.abc import Iterator

import hypothesis
import jaxtyping
import pytest
import torch


class TorchRandom:
    """Torch's global generator, as hypothesis wants to meet it: seeded before every example."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


# Hypothesis keeps only a weak reference.
TORCH_RANDOM = TorchRandom()
hypothesis.register_random(TORCH_RANDOM)

# Without a GPU the Triton kernels run in Triton's interpreter, chosen before triton is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The same examples on every machine; `pytest --hypothesis-profile=explore` draws new ones.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("steady")

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(4, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As in a user's program: no annotation is checked (checking draws from Python's `random`)."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def torch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain torch alone, as on a machine without a compiler."""
    monkeypatch.setattr("rarememory.native.is_supported", lambda *tensors: False)


@pytest.fixture(autouse=True)
def torch_lookup_means_torch_only(request: pytest.FixtureRequest) -> None:
    """A test that asks for the lookup "torch" gets torch for everything else too."""
    callspec = getattr(request.node, "callspec", None)
    if callspec and "torch" in (callspec.params.get("lookup"), callspec.params.get("make")):
        request.getfixturevalue("torch_only")


@pytest.fixture(params=["torch", "native"])
def engine(request: pytest.FixtureRequest) -> None:
    """Once with plain torch, and once with the library in C++."""
    if request.param == "torch":
        request.getfixturevalue("torch_only")
