"""A trained reader in one safetensors file, with the words that it knows."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rarememory.base.files import write_atomically
from rarememory.readers.memn2n import MemN2N
from rarememory.readers.questions import Vocabulary

_KIND = "rarememory.readers.MemN2N"


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state that a training of readers wrote.

    Raises:
        ValueError: the file is damaged, or no such state.

    Example:
        >>> load_checkpoint(Path("nowhere.pt"))
        Traceback (most recent call last):
        FileNotFoundError: [Errno 2] No such file or directory: 'nowhere.pt'
    """
    try:
        state = torch.load(path, weights_only=True)
    except OSError:
        raise
    # A damaged file makes pickle raise almost anything.
    except Exception as error:
        raise ValueError(f"{path} is no checkpoint: remove the file ({error})") from error
    if not isinstance(state, dict) or "facts" not in state:
        raise ValueError(f"{path} is no checkpoint of a reader: remove the file")
    return state


def save_reader(path: str | PathLike[str], reader: MemN2N, vocabulary: Vocabulary) -> None:
    """Write a reader and its vocabulary, in half precision.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> vocabulary = Vocabulary(["mary", "is", "here"])
        >>> with TemporaryDirectory() as folder:
        ...     save_reader(f"{folder}/reader.safetensors", MemN2N(len(vocabulary), 50), vocabulary)
        ...     load_reader(f"{folder}/reader.safetensors")[1].words
        ('', 'mary', 'is', 'here')
    """
    about = {"kind": _KIND, "options": reader.options, "words": vocabulary.words[1:]}
    tensors = {name: part.detach().half().contiguous() for name, part in reader.named_parameters()}

    def write(draft: Path) -> None:
        save_file(tensors, draft, metadata={"about": json.dumps(about)})

    write_atomically(path, write, parents=True)


def load_reader(path: str | PathLike[str]) -> tuple[MemN2N, Vocabulary]:
    """The reader of such a file, and its vocabulary.

    Raises:
        ValueError: the file is damaged, or not written by `save_reader`.

    Example:
        >>> load_reader("nowhere.safetensors")
        Traceback (most recent call last):
        FileNotFoundError: No such file or directory: nowhere.safetensors
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is no safetensors file: {error}") from error
    if about.get("kind") != _KIND:
        raise ValueError(f"{str(path)!r} was not written by `save_reader`")
    reader = MemN2N(**about["options"])
    reader.load_state_dict(tensors)
    return reader.eval(), Vocabulary(about["words"])
