"""Who draws what: drawings to train on, to fit by and to test with, of old classes and of new ones.

The 964 background characters of Omniglot are the old classes and the 659 evaluation characters the
new ones; every character was drawn once by each of 20 drawers. Old classes are trained on drawers 1
to 14, whatever has to be fitted is fitted on drawers 15 and 16, and 17 to 20 test. New classes are
taught from drawers 1 or 1 to 5, and 6 to 20 test. Nothing is ever fitted on the evaluation
characters: where fitting wants new classes, the background characters turned by a right angle are
new to the classifier as well.
"""

from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from rarememory.data import Omniglot, download_omniglot, read_omniglot

SIZE = 64
TRAIN, FIT, TEST = slice(0, 14), slice(14, 16), slice(16, 20)
NEW_TEST = slice(5, 20)


def read(folder: str | None) -> Omniglot:
    """All of Omniglot, 64 x 64; downloaded if no folder is given."""
    return read_omniglot(Path(folder) if folder else download_omniglot("data"), size=SIZE)


def examples(
    images: UInt8[Tensor, "classes drawings height width"], drawers: slice
) -> tuple[UInt8[Tensor, "examples height width"], list[int]]:
    """The drawings of some drawers, one after the other, and the class of each."""
    chosen = images[:, drawers]
    classes = torch.arange(len(chosen)).repeat_interleave(chosen.shape[1])
    return chosen.flatten(0, 1), classes.tolist()


def pixels(images: UInt8[Tensor, "batch height width"]) -> Float[Tensor, "batch 3 height width"]:
    """As a classifier of photographs takes them: three channels in [0, 1]."""
    planes = images.float().div(255).unsqueeze(1).expand(-1, 3, -1, -1)
    return planes.contiguous(memory_format=torch.channels_last)
