"""Finished cells in runs/, from which an interrupted benchmark resumes.

The folder is named after a digest of code, machine, versions and options, so that a cell is found
again only by the same ones.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from rarememory.base.files import write_atomically

CODE = (".py", ".cpp", ".h", ".cu")
ROOT = Path(__file__).resolve().parent.parent


class CellCache:
    """A folder of JSON files, one per cell."""

    def __init__(self, runs: Path, name: str, *facts: object) -> None:
        digest = hashlib.sha256(repr((code_digest(), *facts)).encode()).hexdigest()[:12]
        self.folder = runs / f"{name}_{digest}"

    def get(self, name: str) -> Any | None:
        """What was stored under this name, or None."""
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def put(self, name: str, value: object) -> None:
        """Store a value."""
        text = json.dumps(value)
        path = self.folder / f"{name}.json"
        write_atomically(path, lambda draft: draft.write_text(text, encoding="utf-8"), parents=True)


def code_digest(root: Path = ROOT) -> str:
    """Checksum of all code on which a figure could depend, committed or not."""
    digest = hashlib.sha256()
    for folder in ("rarememory", "benchmarks"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in CODE:
                digest.update(path.relative_to(root).as_posix().encode() + b"\0")
                digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()
