"""Faiss, where it is installed, for the searches that stand on it."""

import importlib.util
import sys
from typing import Any


def faiss_package() -> Any:
    """The package, imported late: torch must come first, so that both share one OpenMP runtime."""
    import faiss

    return faiss


def faiss_is_missing() -> str | None:
    """One sentence that says how to install it, or None where it is.

    Asked at every search: a memory may be unpickled where there is no Faiss.
    """
    if sys.modules.get("faiss") is not None or importlib.util.find_spec("faiss") is not None:
        return None
    return 'faiss is not installed; run: pip install "rarememory[faiss]"'
