"""`make wheel-test`: a wheel in an environment without a compiler, and tests of it there.

The environment borrows torch and the tools of the tests from this one; of the package it has what
the wheel contains, and of the programs on the search path nothing but Python.
"""

import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ("tests/native", "tests/lookup/test_codes.py", "tests/lookup/test_nearest.py")
ANSWER = """
import os, rarememory, shutil, sys, torch
from rarememory import native
assert rarememory.__file__.startswith(sys.prefix), rarememory.__file__
assert not any(shutil.which(name) for name in ("c++", "g++", "clang++", "cc", "gcc", "cmake"))
memory = rarememory.Memory(3, 4, lookup="native")
memory.write(torch.eye(3), torch.arange(3))
assert memory(torch.eye(3)).prediction.tolist() == [0, 1, 2]
print(rarememory.__file__, native.library().instruction_set, *native.library().found)
"""


LARGEST = 3_000_000
"""Bytes of a wheel, without the weights of the encoder that it brings."""


def main(wheel: Path) -> int:
    if (size := size_without_weights(wheel)) >= LARGEST:
        print(f"{wheel.name} has {size:,} bytes without weights, and {LARGEST:,} are too many")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder)
        python = install(wheel, bare)
        # Neither a home that can be written, nor a folder for temporary files.
        missing = {"HOME": "/nowhere", "TMPDIR": "/nowhere"}
        if run(python, "-c", ANSWER, cwd=bare, **missing):
            return 1
        for name in ("tests", "pyproject.toml"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, bare / name)
        # These options of the tests are made for the folder of the sources.
        options = ["-q", "-n", "2", "-p", "no:cacheprovider", "--rootdir", str(bare)]
        return run(python, "-m", "pytest", *options, *TESTS, cwd=bare)


def size_without_weights(wheel: Path) -> int:
    with zipfile.ZipFile(wheel) as content:
        parts = [part for part in content.infolist() if "/weights/" not in part.filename]
        return sum(part.compress_size for part in parts)


def install(wheel: Path, bare: Path) -> Path:
    """The Python of a new environment with the wheel."""
    subprocess.run([sys.executable, "-m", "venv", bare / "venv"], check=True)
    python = bare / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    packages = next((bare / "venv").glob("lib/python*/site-packages"))
    # A path in a .pth file is searched last, and its own .pth files (the package in the folder of
    # its sources) are not read.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return python


def run(python: Path, *arguments: str, cwd: Path, **more: str) -> int:
    environment = {"PATH": str(python.parent), "OMP_WAIT_POLICY": "PASSIVE"} | more
    return subprocess.run([python, *arguments], cwd=cwd, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
