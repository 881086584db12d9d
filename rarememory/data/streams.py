"""Streams: the order in which all drawings of all classes are shown."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from rarememory.data.characters import character_of


class Stream(NamedTuple):
    """Classes and drawings in order: `embeddings[stream.classes, stream.drawings]` are shown.

    >>> stream = random_stream(3, 2, generator=Generator())
    >>> stream.classes.tolist().count(0)
    2
    """

    classes: Int64[Tensor, " shown"]
    drawings: Int64[Tensor, " shown"]


def random_stream(n_classes: int, n_drawings: int, *, generator: Generator) -> Stream:
    """All drawings of all classes in random order. `generator` lives on the CPU.

    >>> stream = random_stream(659, 20, generator=Generator())
    >>> stream.classes.shape
    torch.Size([13180])
    """
    return _stream(torch.randperm(n_classes * n_drawings, generator=generator), n_drawings)


def alphabet_stream(names: Sequence[str], n_drawings: int, *, generator: Generator) -> Stream:
    """One alphabet after another: new classes keep coming, and old ones never come again.

    Alphabets are in random order, and the drawings of each too. The class "Greek/character07" is of
    the alphabet "Greek". `generator` lives on the CPU.

    >>> names = ["Greek/character01", "Keble/character01"]
    >>> stream = alphabet_stream(names, 3, generator=Generator())
    >>> stream.classes.unique_consecutive().shape
    torch.Size([2])
    """
    alphabets = classes_by_alphabet(names)
    order = torch.randperm(len(alphabets), generator=generator).tolist()
    blocks = []
    for classes in (list(alphabets.values())[place] for place in order):
        shown = classes.repeat_interleave(n_drawings) * n_drawings
        shown = shown + torch.arange(n_drawings).repeat(len(classes))
        blocks.append(shown[torch.randperm(len(shown), generator=generator)])
    return _stream(torch.cat(blocks), n_drawings)


def classes_by_alphabet(names: Sequence[str]) -> dict[str, Int64[Tensor, " classes"]]:
    """The indices of the names of each alphabet, the part of a character before its last slash.

    >>> classes_by_alphabet(["Greek/character01", "Keble/character01", "Greek/character02"])
    {'Greek': tensor([0, 2]), 'Keble': tensor([1])}
    """
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(character_of(name).rpartition("/")[0], []).append(place)
    return {alphabet: torch.tensor(classes) for alphabet, classes in places.items()}


def _stream(order: Int64[Tensor, " shown"], n_drawings: int) -> Stream:
    return Stream(order // n_drawings, order % n_drawings)
