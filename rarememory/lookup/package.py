"""The import of Faiss, an optional package."""

import importlib.util
import sys
from typing import Any


def faiss_package() -> Any:
    """The package; torch has to be imported first, so that both share one OpenMP runtime."""
    import faiss

    return faiss


def faiss_is_missing() -> str | None:
    """How to install it, or None if it is installed.

    Checked at every search: a memory may be unpickled where there is no Faiss.
    """
    if sys.modules.get("faiss") is not None or importlib.util.find_spec("faiss") is not None:
        return None
    return 'faiss is not installed; run: pip install "rarememory[faiss]"'
