"""The drawings of old and new classes, to train on, to fit by and to test with.

The 964 background characters of Omniglot are the old classes and the 659 evaluation characters the
new ones; every character was drawn once by each of 20 drawers. Old classes are trained on drawers 1
to 14; drawers 15 and 16 are for fitting, and 17 to 20 for the test. New classes are learnt from
drawer 1 or drawers 1 to 5, and 6 to 20 test. Nothing is ever fitted on the evaluation characters:
where fitting needs new classes, it rehearses with background characters turned by a right angle,
which are as new to the classifier, and as many.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor

from rarememory.data import Characters, download_omniglot, read_omniglot

SIZE = 64
TRAIN, FIT, TEST = slice(0, 14), slice(14, 16), slice(16, 20)
NEW_TEST = slice(5, 20)


class Classes(NamedTuple):
    """Old classes, new ones, and those that stand for new ones where something is fitted."""

    old: Characters
    new: Characters
    rehearsal: Characters


class Drawings(NamedTuple):
    """Drawings, and the class of each by name."""

    images: UInt8[Tensor, "examples height width"]
    names: list[str]

    def __add__(self, other: tuple[object, ...]) -> "Drawings":
        """One after the other."""
        assert isinstance(other, Drawings)
        return Drawings(torch.cat([self.images, other.images]), self.names + other.names)

    def batches(self, size: int = 256) -> Iterator[tuple[Tensor, list[str]]]:
        """Batches of pixels and names, as of a loader."""
        for start in range(0, len(self.names), size):
            some = slice(start, start + size)
            yield pixels(self.images[some]), self.names[some]


def read(folder: str | None, seed: int) -> Classes:
    """All of Omniglot, 64 x 64; downloaded if no folder is given."""
    omniglot = read_omniglot(Path(folder) if folder else download_omniglot("data"), size=SIZE)
    turned = [f"{name}/rot090" for name in omniglot.background.names]
    order = torch.randperm(len(turned), generator=Generator().manual_seed(seed))
    chosen = [turned[place] for place in order[: len(omniglot.evaluation)]]
    rehearsal = omniglot.background.rotated().select(chosen)
    return Classes(omniglot.background, omniglot.evaluation, rehearsal)


def drawn(characters: Characters, drawers: slice) -> Drawings:
    """The drawings of every character by some drawers."""
    chosen = characters.images[:, drawers]
    names = [name for name in characters.names for _ in range(chosen.shape[1])]
    return Drawings(chosen.flatten(0, 1), names)


def pixels(images: UInt8[Tensor, "batch height width"]) -> Float[Tensor, "batch 3 height width"]:
    """The input of a classifier of photographs: three channels in [0, 1]."""
    planes = images.float().div(255).unsqueeze(1).expand(-1, 3, -1, -1)
    return planes.contiguous(memory_format=torch.channels_last)
