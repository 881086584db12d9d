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
