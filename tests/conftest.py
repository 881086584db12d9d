"""Every test starts from the same randomness and uses a few threads.

This file imports nothing of rarememory.
"""

import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import jaxtyping
import pytest
import torch


class TorchRandom:
    """Torch's global generator in the form that hypothesis needs to seed it before each example."""

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
# In tests/damage.py the first failure is enough: nobody reads the smallest example.
hypothesis.settings.register_profile(
    "damage", parent=hypothesis.settings.get_profile("steady"), phases=[hypothesis.Phase.generate]
)
hypothesis.settings.load_profile("steady")

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(4, torch.get_num_threads()))


def pytest_sessionstart() -> None:
    """The library in C++ is built again in place where its sources have changed since."""
    folder = Path(__file__).parents[1] / "rarememory" / "native"
    library = folder / "librarememory.so"
    sources = [path for path in folder.glob("*") if path.suffix in {".cpp", ".h", ".txt"}]
    if "PYTEST_XDIST_WORKER" in os.environ or not sources:
        return
    built = library.stat().st_mtime if library.exists() else 0
    if built < max(path.stat().st_mtime for path in sources):
        command = ["make", "native", f"VENV={sys.prefix}"]
        subprocess.run(command, cwd=folder.parents[1], check=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no worker is left with one at the end."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Tests have no doctests. To look for them would hide a test file that cannot be imported.

    With --doctest-ignore-import-errors its import fails once in silence, and the second time pytest
    finds half of the module and no tests in it.
    """
    collected = yield
    return [one for one in collected if type(one).__name__ != "DoctestModule"]


@pytest.fixture(autouse=True, scope="session")
def checked_kernels() -> Iterator[None]:
    """What the kernels of the library in C++ are given is checked at every call."""
    from tests import kernels

    with kernels.all_checked():
        yield


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Annotations are not checked, as in a user's program (checking uses Python's `random`)."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def torch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library in C++, as where the package was built without a compiler."""
    monkeypatch.setattr("rarememory.native.is_supported", lambda *tensors: False)


@pytest.fixture(autouse=True)
def torch_lookup_means_torch_only(request: pytest.FixtureRequest) -> None:
    """A test with the parameter "torch" as its lookup does not use the library in C++ at all."""
    callspec = getattr(request.node, "callspec", None)
    if callspec and "torch" in (callspec.params.get("lookup"), callspec.params.get("make")):
        request.getfixturevalue("torch_only")


@pytest.fixture(params=["avx512_vnni", "avx512", "avx_vnni", "avx2", "baseline"])
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with each instruction set of the library that this processor has."""
    from rarememory import native

    name: str = request.param
    if name not in native.library().found:
        pytest.skip(f"this processor, or the library, has no {name}")
    library = native.Library(native.opened(), name)
    monkeypatch.setattr(native, "_made", lambda: library)
    return name


@pytest.fixture(params=["torch", "native"])
def engine(request: pytest.FixtureRequest) -> None:
    """Runs a test twice: without the library in C++, and with it."""
    if request.param == "torch":
        request.getfixturevalue("torch_only")
