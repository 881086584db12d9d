"""The file format: one safetensors file, written whole or not at all, without pickle.

Tensors are tensors; everything else is JSON in the file's header.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rarememory.base.files import StrPath, write_atomically

FORMAT = "rarememory.classifier"
VERSION = 2
"""Version 1 had other names for some tensors, and did not name the class of the memory."""


def write_file(path: StrPath, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write a file whole or not at all: a crash leaves the old file unchanged."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "version": str(VERSION), "header": json.dumps(header)}
    content = save(stored, metadata)
    # Not `save_file`, which gives a new file no permissions but its owner's.
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def read_file(path: StrPath) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file that `write_file` wrote.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is truncated, of another format, or of a newer version.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{str(path)!r} is no safetensors file, or only a part of one ({error}): restore it"
        ) from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{str(path)!r} is a safetensors file, but no memory of a classifier")
    version = int(metadata["version"])
    if version > VERSION:
        raise ValueError(
            f"{str(path)!r} is of version {version}, and this rarememory reads up to {VERSION}: "
            "upgrade rarememory"
        )
    header: dict[str, Any] = json.loads(metadata["header"])
    return tensors, header
