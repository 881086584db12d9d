"""All of Omniglot with the rotations of every character, and how it is split."""

from rarememory.backbones import BACKBONES
from rarememory.data import (
    Characters,
    Omniglot,
    Split,
    download_omniglot,
    read_omniglot,
    split_called,
)


def rotated_omniglot(
    folder: str | None, split: str, backbone: str
) -> tuple[str, Split, Characters]:
    """The split's name, the split (called so, or a folder of lists), and all characters.

    Drawings are as large as the backbone takes them; without a folder they are downloaded.
    """
    parts = read_omniglot(folder or download_omniglot("data"), BACKBONES[backbone](1).size)
    omniglot = Omniglot(*(part.rotated() for part in parts))
    return *split_called(split, omniglot), omniglot.characters
