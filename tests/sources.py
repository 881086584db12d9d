"""The files of the project, for tests that read them."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("rarememory", "benchmarks", "examples")


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
