"""The pages of the documentation, README among them, and the code that stands in them."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from tests.sources import ROOT

PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}

# Annotations are checked while tests run, and no compiler follows the code that checks them; README
# is run as a user would run it.
IN_A_PROCESS_OF_ITS_OWN = {"README.md", "docs/howto/export.md"}

_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[tuple[str, str]]:
    """The language and the text of every block of code of a page."""
    text = PAGES[page].read_text(encoding="utf-8")
    return [(language, code) for _, language, code in _FENCE.findall(text)]


def python_of(page: str) -> str:
    """The Python of a page as one program."""
    return "\n".join(code for language, code in blocks(page) if language == "python")


def run(page: str, folder: Path) -> dict[str, object]:
    """Run the Python of a page in one go; the names that it has defined, if that is known."""
    code = python_of(page)
    if page not in IN_A_PROCESS_OF_ITS_OWN:
        names: dict[str, object] = {"__name__": "page"}
        exec(compile(code, page, "exec"), names)
        return names
    script = folder / "page.py"
    script.write_text(code, encoding="utf-8")
    run_script(script, folder)
    return {}


def run_script(script: Path, folder: Path) -> None:
    """Run a script in a folder, every warning an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


class Index:
    """What the pages use of usearch, by brute force: a dictionary of vectors."""

    def __init__(self, ndim: int, metric: str, dtype: str) -> None:
        assert (metric, dtype) == ("ip", "f32")
        self.ndim, self.vectors = ndim, {}

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        assert vectors.shape == (len(keys), self.ndim) and len(keys)
        assert not set(keys.tolist()) & self.vectors.keys(), "Duplicate keys not allowed"
        self.vectors.update(zip(keys.tolist(), vectors.copy(), strict=True))

    def remove(self, keys: np.ndarray) -> None:
        for key in keys.tolist():
            del self.vectors[key]

    def search(self, vectors: np.ndarray, count: int) -> SimpleNamespace:
        stored = np.array(list(self.vectors), dtype=np.uint64)
        distances = 1 - vectors @ np.array(list(self.vectors.values())).T
        nearest = distances.argsort(1, kind="stable")[:, :count]
        keys, distances = stored[nearest], np.take_along_axis(distances, nearest, 1)
        if len(vectors) == 1:
            return SimpleNamespace(keys=keys[0], distances=distances[0])
        # A graph can miss a neighbour: here the last row always finds one too few.
        keys[-1, -1], distances[-1, -1] = 0, np.nan
        return SimpleNamespace(keys=keys, distances=distances)


def _cagra() -> ModuleType:
    """What the pages use of cuVS, by brute force: vectors by their place."""
    module = ModuleType("cagra")
    module.IndexParams = module.SearchParams = lambda: None
    module.build = lambda parameters, vectors: vectors.numpy().copy()

    def search(parameters, graph, queries, k):
        scores = queries.numpy() @ graph.T
        return None, (-scores).argsort(1, kind="stable")[:, :k].astype(np.uint32)

    module.search = search
    return module


def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages that the pages import and that no extra of ours installs."""
    modules = {
        "usearch": ModuleType("usearch"),
        "usearch.index": SimpleNamespace(Index=Index),
        "cuvs": ModuleType("cuvs"),
        "cuvs.neighbors": SimpleNamespace(cagra=_cagra()),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
