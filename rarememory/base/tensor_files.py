"""Tensors as the bytes of a safetensors file: the same bytes for equal tensors, and checked.

The header of such a file is JSON (https://github.com/huggingface/safetensors, "Format"); here it is
written in one order, with a digest of everything else in the file.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from rarememory.base.files import StrPath

METADATA, DIGEST = "__metadata__", "sha256"
"""Where the header has texts of its own, and which of them is the digest."""


def encoded(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The tensors and the texts as a safetensors file: equal ones give equal bytes.

    Example:
        >>> import torch
        >>> content = encoded({"keys": torch.eye(2)}, {"format": "birds"})
        >>> content == encoded({"keys": torch.eye(2)}, {"format": "birds"})
        True
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # safetensors itself writes the texts in an order that differs from call to call.
    header, data = _split(save(stored, dict(metadata)))
    header[METADATA][DIGEST] = _digest(header, data)
    text = _canonical(header)
    # The data begin at a multiple of 8 bytes.
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, data))


def read_tensors(path: StrPath) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and the texts in its header without the digest.

    The file is read once: what another process writes to the same path meanwhile has no part in it.
    A file without a digest, as other programs write it, is read too.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is no safetensors file, or its content is not what was written.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "birds.safetensors")
        ...     _ = path.write_bytes(encoded({"clock": torch.tensor(7)}, {"format": "birds"}))
        ...     read_tensors(path)
        ({'clock': tensor(7)}, {'format': 'birds'})
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    content = Path(path).read_bytes()
    try:
        tensors: dict[str, Tensor] = load(content)
        header, data = _split(content)
    except Exception as error:
        # What is no such file ends in whatever the parser stumbles over, and may quote at length.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"{str(path)!r} is no safetensors file, or only a part of one ({reason}): restore it"
        ) from error
    metadata: dict[str, str] = header.get(METADATA) or {}
    written = metadata.pop(DIGEST, None)
    if written is not None and written != _digest(header, data):
        raise ValueError(
            f"{str(path)!r} is damaged: its content is not what was written (the SHA-256 differs): "
            "restore it"
        )
    return tensors, metadata


def _split(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header and the data."""
    begin = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:begin]), memoryview(content)[begin:]


def _digest(header: Mapping[str, Any], data: memoryview) -> str:
    digest = hashlib.sha256(_canonical(header))
    digest.update(data)
    return digest.hexdigest()


def _canonical(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
