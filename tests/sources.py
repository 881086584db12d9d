"""The files that tests read: the project's sources, and real data where there are some."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("rarememory", "benchmarks", "examples")


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def omniglot_folder() -> Path:
    """Where the real Omniglot is; a test that asks for it is skipped without it."""
    for place in (ROOT / "data", ROOT.parent / "shared" / "data" / "omniglot"):
        if place.is_dir():
            return place
    pytest.skip("no Omniglot in data/ or ../shared/data/omniglot")


@cache
def omniglot() -> Any:
    """It, read once a process."""
    pytest.importorskip("PIL", reason="Pillow is not installed")
    from rarememory.data import read_omniglot

    return read_omniglot(omniglot_folder(), progress=False)


# The tests that judge a file, if not the file of the same name and its folder.
_TESTS = {
    "base/state.py": "memory/test_rules.py memory/test_queries.py memory",
    "base/validation.py": "memory/test_bad_input.py memory",
    "lookup/exact.py": "lookup/test_nearest.py lookup/test_pair.py memory/test_rules.py",
    "lookup/pair.py": "lookup/test_pair.py memory/test_rules.py",
    "lookup/ops.py": "lookup/test_nearest.py memory/test_rules.py",
    "lookup/indexed.py": "lookup/test_own_lookup.py lookup/test_ivf.py",
}


def related_tests(file: str) -> list[str]:
    """The tests to run for a file: tests/base/test_files.py and tests/base for base/files.py."""
    inside = file.removeprefix("rarememory/")
    if inside in _TESTS:
        return [f"tests/{test}" for test in _TESTS[inside].split()]
    own = Path("tests", inside).with_name(f"test_{Path(inside).name}")
    found = [own, own.parent] if own.parent.name != "tests" else [own]
    return [path.as_posix() for path in found if (ROOT / path).exists()]
