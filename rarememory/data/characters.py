"""Characters: named classes with a few drawings each."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

ROTATIONS = ("rot000", "rot090", "rot180", "rot270")


@dataclass(frozen=True, eq=False, repr=False)
class Characters:
    """Named classes with the same number of drawings each; ink is 255 on 0.

    In Omniglot, `images[c, d]` is class `c` drawn by drawer `d + 1`. There may be no classes. A
    ValueError refuses names that differ in number from the images, or are not unique.

    >>> images = torch.zeros(2, 20, 28, 28, dtype=torch.uint8)
    >>> characters = Characters(("Greek/character01", "Greek/character02"), images)
    >>> characters
    Characters(2 classes, 20 drawings each, 28 x 28)
    """

    names: tuple[str, ...]
    images: UInt8[Tensor, "classes drawings height width"]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.images):
            raise ValueError(
                f"{len(self.names)} names for {len(self.images)} classes of images: "
                "give each class one"
            )
        if len(set(self.names)) < len(self.names):
            [(repeated, times)] = Counter(self.names).most_common(1)
            raise ValueError(f"{repeated!r} names {times} classes: give each its own")

    def __repr__(self) -> str:
        height, width = self.images.shape[2:]
        return f"Characters({len(self)} classes, {self.drawings} drawings each, {height} x {width})"

    def __len__(self) -> int:
        """The number of classes."""
        return len(self.names)

    @property
    def drawings(self) -> int:
        """The number of drawings of each class."""
        return self.images.shape[1]

    def select(self, names: Sequence[str]) -> "Characters":
        """The named classes, in the order given; a KeyError for an unknown name.

        >>> both = Characters(("a", "b"), torch.zeros(2, 3, 5, 5, dtype=torch.uint8))
        >>> both.select(["b"]).names
        ('b',)
        """
        place = {name: index for index, name in enumerate(self.names)}
        for name in names:
            if name not in place:
                raise KeyError(self._unknown(name))
        chosen = torch.tensor([place[name] for name in names], dtype=torch.int64)
        return Characters(tuple(names), self.images[chosen])

    def rotated(self) -> "Characters":
        """Four classes for each: rotated counter-clockwise by 0, 90, 180 and 270 degrees.

        The degrees are added to the name. A ValueError refuses classes that are rotated
        already, and drawings that are not square.

        >>> Characters(("a",), torch.zeros(1, 3, 5, 5, dtype=torch.uint8)).rotated().names
        ('a/rot000', 'a/rot090', 'a/rot180', 'a/rot270')
        """
        for name in self.names:
            if character_of(name) != name:
                raise ValueError(
                    f"{name!r} is rotated already: call rotated() on the characters as drawn"
                )
        height, width = self.images.shape[2:]
        if height != width:
            raise ValueError(
                f"cannot stack {height} x {width} drawings with their rotations: make them square"
            )
        rotated = [torch.rot90(self.images, quarter, dims=(2, 3)) for quarter in range(4)]
        names = tuple(f"{name}/{rotation}" for name in self.names for rotation in ROTATIONS)
        return Characters(names, torch.stack(rotated, dim=1).flatten(0, 1))

    def mirrored(self) -> "Characters":
        """Two classes for each: itself, and its mirror image, with "/mirror" added to the name.

        For training only: mirror images are in no alphabet, so no test has them.

        >>> Characters(("a",), torch.zeros(1, 3, 5, 5, dtype=torch.uint8)).mirrored().names
        ('a', 'a/mirror')
        """
        names = self.names + tuple(f"{name}/mirror" for name in self.names)
        return Characters(names, torch.cat([self.images, self.images.flip(3)]))

    def _unknown(self, name: str) -> str:
        close = get_close_matches(name, self.names, n=1, cutoff=0.0)
        hint = f"the nearest name is {close[0]!r}" if close else "there are none"
        return f"no class {name!r} among these {len(self)}: {hint}"


def character_of(name: str) -> str:
    """The name of a class without rotation and mirror.

    >>> character_of("Greek/character07/rot090"), character_of("Greek/character07")
    ('Greek/character07', 'Greek/character07')
    """
    return re.sub(r"(/rot(000|090|180|270))?(/mirror)?\Z", "", name)


def is_upright(name: str) -> bool:
    """Whether it names a character as it was drawn, neither rotated nor mirrored.

    >>> is_upright("Greek/character07"), is_upright("a/rot000"), is_upright("a/rot000/mirror")
    (True, True, False)
    """
    return name.removesuffix("/rot000") == character_of(name)


def families(names: Sequence[str]) -> Int64[Tensor, " classes"]:
    """The character of every class, as a number: rotations and mirror images share theirs.

    >>> families(["a/rot000", "b/rot000", "a/rot090", "a/rot000/mirror"])
    tensor([0, 1, 0, 0])
    """
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(character_of(name), len(numbers)) for name in names])
