"""The files that tests read: the project's sources, and real data where there are some."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("rarememory", "benchmarks", "examples")


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@cache
def omniglot() -> Any:
    """The real Omniglot, read once a process; a test that asks for it is skipped without it."""
    pytest.importorskip("PIL", reason="Pillow is not installed")
    places = (ROOT / "data", ROOT.parent / "shared" / "data" / "omniglot")
    for place in places:
        if place.is_dir():
            from rarememory.data import read_omniglot

            return read_omniglot(place, progress=False)
    pytest.skip("no Omniglot in data/ or ../shared/data/omniglot")
