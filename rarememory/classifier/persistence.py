"""One safetensors file for all of a classifier but its host: no pickle, and never half a file.

Tensors are tensors; everything else is JSON in the file's own header.
"""

import json
import os
import tempfile
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

FORMAT = "rarememory.classifier"
VERSION = 1

StrPath = str | PathLike[str]


def write_file(path: StrPath, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write a file whole or not at all: a crash leaves the old one as it was.

    It is written beside its place, flushed to the disk, then put there in one step.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "version": str(VERSION), "header": json.dumps(header)}
    _replace(Path(path), save(stored, metadata))


def read_file(path: StrPath) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file that `write_file` wrote.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is truncated, of another kind, or of a newer version.
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


def _replace(path: Path, content: bytes) -> None:
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, _mode_of(path))
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
    _flush_folder(path.parent)


def _mode_of(path: Path) -> int:
    """Permissions of the file that is replaced, or those a new file has."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _flush_folder(folder: Path) -> None:
    # Windows cannot open a folder, and does not need to.
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
