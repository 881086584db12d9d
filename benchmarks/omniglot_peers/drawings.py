"""The characters of each part: rotations are classes, and training classes are mirrored too."""

from typing import NamedTuple

from jaxtyping import UInt8
from torch import Tensor

from benchmarks.omniglot.characters import rotated_omniglot
from rarememory.data import Characters, checksum, is_upright

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
    """All of Omniglot by a split, as `rotated_omniglot` reads it."""
    name, chosen, characters = rotated_omniglot(folder, split, backbone)
    parts = (chosen.train, chosen.validation, chosen.test)
    train, validation, test = map(characters.select, parts)
    return Drawings(train.mirrored(), validation, test, name, checksum(chosen))


def upright(characters: Characters) -> list[int]:
    """Places of the classes that are drawn as they were, not turned."""
    return [place for place, name in enumerate(characters.names) if is_upright(name)]
