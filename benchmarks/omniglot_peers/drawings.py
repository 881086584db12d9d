"""The characters of each part: rotations are classes, and training classes are mirrored too."""

from typing import NamedTuple

from jaxtyping import UInt8
from torch import Tensor

from rarememory.backbones import BACKBONES
from rarememory.data import (
    Characters,
    Omniglot,
    checksum,
    download_omniglot,
    is_upright,
    read_omniglot,
    split_called,
)

Images = UInt8[Tensor, "classes drawings height width"]


class Drawings(NamedTuple):
    """Characters to train on, to validate and to test with, and the name of their split."""

    train: Characters
    validation: Characters
    test: Characters
    split: str
    checksum: str

    @property
    def published(self) -> bool:
        """Whether it is the split of the few-shot papers."""
        return self.split == "vinyals"


def read(folder: str | None, split: str, backbone: str = "residual") -> Drawings:
    """All of Omniglot by a split (its name, or a folder of lists); downloaded without a folder.

    Drawings are as large as the backbone takes them.
    """
    parts = read_omniglot(folder or download_omniglot("data"), BACKBONES[backbone](1).size)
    omniglot = Omniglot(*(part.rotated() for part in parts))
    name, chosen = split_called(split, omniglot)
    characters = omniglot.characters
    return Drawings(
        characters.select(chosen.train).mirrored(),
        characters.select(chosen.validation),
        characters.select(chosen.test),
        name,
        checksum(chosen),
    )


def upright(characters: Characters) -> list[int]:
    """Places of the classes that are drawn as they were, not turned."""
    return [place for place, name in enumerate(characters.names) if is_upright(name)]
