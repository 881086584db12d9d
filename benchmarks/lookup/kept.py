"""Finished cells, kept in runs/ so that an interrupted benchmark goes on where it stopped.

A cell is found again by the same code, machine, versions and options only: the folder is named
after a digest of all of them.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

CODE = (".py", ".cpp", ".h", ".cu")
ROOT = Path(__file__).resolve().parent.parent.parent


class Kept:
    """A folder of JSON files, one a cell."""

    def __init__(self, runs: Path, device: str, *facts: object) -> None:
        digest = hashlib.sha256(repr((code_digest(), *facts)).encode()).hexdigest()[:12]
        self.folder = runs / f"lookup_{device}_{digest}"

    def get(self, name: str) -> Any | None:
        """What was kept under this name, or None."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            return None
        return json.loads(path.read_text(encoding="utf-8"))

    def put(self, name: str, thing: object) -> None:
        """Keep it: all of it or, if interrupted, nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        half = self.folder / f"{name}.part"
        half.write_text(json.dumps(thing), encoding="utf-8")
        half.replace(self.folder / f"{name}.json")


def code_digest(root: Path = ROOT) -> str:
    """Checksum of all code that a figure could depend on, committed or not."""
    digest = hashlib.sha256()
    for folder in ("rarememory", "benchmarks"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in CODE:
                digest.update(path.relative_to(root).as_posix().encode() + b"\0")
                digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()
