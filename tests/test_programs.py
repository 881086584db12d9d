"""Runs tests/programs in a process of its own, in which no annotation is checked."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_programs_made_of_the_memory_do_what_the_memory_does():
    options = ["-q", "-ra", "--import-mode=importlib", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-o", "addopts=", "tests/programs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    print(run.stdout[-4000:], run.stderr[-4000:])
    assert run.returncode == 0
