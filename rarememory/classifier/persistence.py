"""The file format: one safetensors file, written whole or not at all, without pickle.

Tensors are tensors; everything else is JSON in the file's header.
"""

import json
from typing import Any

from torch import Tensor

from rarememory.base.files import StrPath, write_atomically
from rarememory.base.tensor_files import encoded, read_tensors

FORMAT = "rarememory.classifier"
TEXTS = {"format", "version", "header"}
VERSION = 2
"""Version 1 had other names for some tensors, and did not name the class of the memory."""


def write_file(path: StrPath, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write a file whole or not at all: a crash leaves the old file unchanged.

    Equal tensors and equal headers give equal bytes.
    """
    text = json.dumps(header, sort_keys=True)
    content = encoded(tensors, {"format": FORMAT, "version": str(VERSION), "header": text})
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def read_file(path: StrPath) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file that `write_file` wrote.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        ValueError: it is truncated, damaged, of another format, or of a newer version.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{str(path)!r} is a safetensors file, but no memory of a classifier")
    if metadata.keys() - TEXTS:
        more = sorted(name[:40] for name in metadata.keys() - TEXTS)
        raise ValueError(f"{str(path)!r} is damaged: its header has {more}, which no version has")
    version = metadata.get("version", "")
    # Digits that nobody has seen yet would be of a version far above.
    if not (version.isascii() and version.isdecimal() and len(version) < 10):
        raise ValueError(f"{str(path)!r} is damaged: its version is {version[:40]!r}, no number")
    if int(version) > VERSION:
        raise ValueError(
            f"{str(path)!r} is of version {version}, and this rarememory reads up to {VERSION}: "
            "upgrade rarememory"
        )
    try:
        header = json.loads(metadata.get("header", ""))
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it is nested too deep"
        raise ValueError(f"{str(path)!r} is damaged: its header is no JSON ({reason})") from None
    if not isinstance(header, dict):
        raise ValueError(f"{str(path)!r} is damaged: its header is no JSON object")
    return tensors, header
