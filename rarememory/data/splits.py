"""Splits of Omniglot into characters for training, validation and test."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from os import PathLike
from pathlib import Path

from rarememory.data.characters import character_of
from rarememory.data.omniglot import Omniglot

VINYALS = "88c3dac4e5e2"
"""Checksum of the split of Vinyals et al. 2016, which the few-shot papers use."""
FIVE_ALPHABETS = ("Balinese", "Early_Aramaic", "Greek", "Korean", "Latin")
"""Of the background; 136 characters."""
_LISTED = re.compile(r"[^/]+/character\d+(/rot(000|090|180|270))?")


@dataclass(frozen=True)
class Split:
    """Class names of the three parts; no character is in two of them.

    A ValueError names a character that is, also if its rotation differs.

    >>> Split(train=("a/rot000",), validation=(), test=("a/rot090",))
    Traceback (most recent call last):
    ValueError: 'a/rot000' in train and 'a/rot090' in test are one character: keep it in one part
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        first: dict[str, tuple[str, str]] = {}
        for part in fields(self):
            for name in getattr(self, part.name):
                other, other_part = first.setdefault(character_of(name), (name, part.name))
                if other_part != part.name:
                    raise ValueError(
                        f"{other!r} in {other_part} and {name!r} in {part.name} are one character: "
                        "keep it in one part"
                    )


def hashed_split(
    names: Sequence[str], sizes: tuple[int, int, int] = (1028, 172, 423), *, seed: int = 0
) -> Split:
    """The default split: characters in the order of the sha256 of their names, cut at `sizes`.

    It needs no file and does not depend on the order of `names`; another `seed` gives another
    split. `sizes` count characters, each with its rotations; the default is the usual 1,200 and 423
    of Omniglot, 172 of the 1,200 for validation. A ValueError if they do not add up.

    >>> hashed_split(["a", "b", "c", "d"], sizes=(2, 1, 1))
    Split(train=('c', 'd'), validation=('b',), test=('a',))
    """
    salt = f"#{seed}" if seed else ""
    characters = sorted({character_of(name) for name in names}, key=lambda name: _hash(name + salt))
    if sum(sizes) != len(characters) or min(sizes) < 0:
        raise ValueError(
            f"sizes {sizes} add up to {sum(sizes)}, but there are {len(characters)} characters: "
            "give three sizes that add up to them"
        )
    n_train, n_validation, _ = sizes
    train = set(characters[:n_train])
    validation = set(characters[n_train : n_train + n_validation])
    test = set(characters[n_train + n_validation :])
    return Split(
        *(
            tuple(name for name in names if character_of(name) in part)
            for part in (train, validation, test)
        )
    )


def folder_split(omniglot: Omniglot) -> Split:
    """Omniglot's own split: test on evaluation, train on background but for a hashed 172/1200.

    That is 826 characters for training, 138 for validation and 659 for test, of other alphabets.

    >>> import torch
    >>> from rarememory.data import Characters
    >>> none = Characters((), torch.zeros(0, 20, 28, 28, dtype=torch.uint8))
    >>> folder_split(Omniglot(none, none))
    Split(train=(), validation=(), test=())
    """
    background = omniglot.background.names
    n_characters = len({character_of(name) for name in background})
    n_validation = round(n_characters * 172 / 1200)
    held_out = hashed_split(background, (n_characters - n_validation, n_validation, 0))
    return Split(held_out.train, held_out.validation, test=omniglot.evaluation.names)


def five_alphabets_split(omniglot: Omniglot) -> Split:
    """Omniglot's own split with five alphabets for training (Lake et al. 2015), no validation.

    >>> import torch
    >>> from rarememory.data import Characters
    >>> drawings = torch.zeros(3, 20, 28, 28, dtype=torch.uint8)
    >>> background = Characters(("Greek/1", "Latin/1", "Tifinagh/1"), drawings)
    >>> five_alphabets_split(Omniglot(background, Characters((), drawings[:0]))).train
    ('Greek/1', 'Latin/1')
    """
    background = omniglot.background.names
    chosen = tuple(name for name in background if name.partition("/")[0] in FIVE_ALPHABETS)
    return Split(chosen, (), test=omniglot.evaluation.names)


def listed_split(folder: str | PathLike[str]) -> Split:
    """The split that `train.txt`, `val.txt` and `test.txt` in `folder` list, one class a line.

    A line is `Alphabet/characterNN`, or, as `rotated()` names them, `Alphabet/characterNN/rotDDD`.
    FileNotFoundError if a list is missing, ValueError for a line that is no class name, an empty
    list, or a character in two lists.

    >>> listed_split("nowhere")
    Traceback (most recent call last):
    FileNotFoundError: no 'nowhere/train.txt': a split is train.txt, val.txt and test.txt
    """
    return Split(
        *(_read_list(Path(folder) / name) for name in ("train.txt", "val.txt", "test.txt"))
    )


def split_called(name: str, omniglot: Omniglot) -> tuple[str, Split]:
    """A split by its name, "hashed", "folders" or "five", or by a folder of lists; and its name.

    Lists are called "vinyals" if they are those of Vinyals et al., and otherwise "listed".

    Raises:
        FileNotFoundError: it is neither a name nor a folder of lists.
        ValueError: as of the split that it is.

    Example:
        >>> import torch
        >>> from rarememory.data import Characters
        >>> drawings = torch.zeros(2, 20, 28, 28, dtype=torch.uint8)
        >>> background = Characters(("a/1", "a/2"), drawings)
        >>> evaluation = Characters(("b/1", "b/2"), drawings)
        >>> called, split = split_called("folders", Omniglot(background, evaluation))
        >>> called, split.test
        ('folders', ('b/1', 'b/2'))
    """
    named = {
        "hashed": lambda: hashed_split(omniglot.characters.names),
        "folders": lambda: folder_split(omniglot),
        "five": lambda: five_alphabets_split(omniglot),
    }
    if name in named:
        return name, named[name]()
    split = listed_split(name)
    return ("vinyals" if checksum(split) == VINYALS else "listed"), split


def checksum(split: Split) -> str:
    """Twelve hexadecimal digits of a split; the order inside a part does not matter.

    >>> checksum(Split(("a", "b"), (), ("c",))) == checksum(Split(("b", "a"), (), ("c",)))
    True
    """
    return _hash(repr([sorted(getattr(split, part.name)) for part in fields(split)]))[:12]


def _read_list(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise FileNotFoundError(f"no {str(path)!r}: a split is train.txt, val.txt and test.txt")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    for number, line in enumerate(lines, start=1):
        if line and not _LISTED.fullmatch(line):
            raise ValueError(
                f"{line!r} in line {number} of {str(path)!r} is no Alphabet/characterNN[/rotDDD]"
            )
    names = tuple(line for line in lines if line)
    if not names:
        raise ValueError(f"{str(path)!r} lists no class: give one Alphabet/characterNN a line")
    return names


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()
