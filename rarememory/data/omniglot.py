"""Omniglot is 1,623 handwritten characters by 20 drawers each: here it is read, and split.

By Lake, Salakhutdinov and Tenenbaum (2015): 50 alphabets in two parts, background (964 characters)
and evaluation (659). Reading needs Pillow and tqdm, downloading needs torchvision.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from rarememory.data.characters import Characters, character_of

DRAWERS = 20

_DRAWING = re.compile(r"(?:^|/)([^/]+/character\d+)/\d{4}_(\d{2})\.png")
_LISTED = re.compile(r"[^/]+/character\d+(/rot(000|090|180|270))?")
_NEEDS = '{} needs {}: pip install "rarememory[vision]"'


class Omniglot(NamedTuple):
    """The two parts of Omniglot, as its makers divided it; no alphabet is in both.

    >>> blank = torch.zeros(1, 20, 28, 28, dtype=torch.uint8)
    >>> greek, keble = (Characters((f"{name}/character01",), blank) for name in ("Greek", "Keble"))
    >>> Omniglot(background=greek, evaluation=keble).characters.names
    ('Greek/character01', 'Keble/character01')
    """

    background: Characters
    evaluation: Characters

    @property
    def characters(self) -> Characters:
        """All characters of both parts, sorted by name.

        >>> none = Characters((), torch.zeros(0, 20, 28, 28, dtype=torch.uint8))
        >>> len(Omniglot(none, none).characters)
        0
        """
        names = self.background.names + self.evaluation.names
        images = torch.cat([self.background.images, self.evaluation.images])
        return Characters(names, images).select(sorted(names))


def read_omniglot(folder: str | PathLike[str], size: int = 28, progress: bool = True) -> Omniglot:
    """Every drawing in `folder`, ink 255 on 0, scaled to size x size.

    Each part is `images_background.zip` (or `images_evaluation.zip`) or that zip unpacked, in
    `folder` or, as torchvision lays it out, in `folder/omniglot-py`; where both are, the zip is
    read. Classes are sorted by name and drawings by drawer, on every machine. A part may hold fewer
    characters than the original, never a character without its 20 drawings.

    FileNotFoundError when a part is not there or empty, ValueError when a file is damaged,
    ModuleNotFoundError without Pillow.

    >>> read_omniglot("nowhere")
    Traceback (most recent call last):
    FileNotFoundError: no folder 'nowhere': download_omniglot('nowhere') makes it
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {str(folder)!r}: download_omniglot({str(folder)!r}) makes it"
        )
    if size < 1:
        raise ValueError(f"size is {size}: a drawing is at least 1 pixel wide, 105 is the original")
    return Omniglot(
        background=_read_part(folder, "images_background", size, progress),
        evaluation=_read_part(folder, "images_evaluation", size, progress),
    )


def download_omniglot(folder: str | PathLike[str]) -> Path:
    """Fetch both parts through torchvision into `folder`, which is returned for `read_omniglot`.

    What torchvision finds there already is not fetched again. ModuleNotFoundError without
    torchvision.

    >>> read_omniglot(download_omniglot("data"))  # doctest: +SKIP
    """
    try:
        import torchvision
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_NEEDS.format("downloading Omniglot", "torchvision")) from error
    for background in (True, False):
        torchvision.datasets.Omniglot(str(folder), background=background, download=True)
    return Path(folder)


@dataclass(frozen=True)
class Split:
    """Class names to train on, to choose by, and to report on; no character is in two of them.

    Rotations count as their character: a character trained on upright and tested on turned is a
    leak, refused by a ValueError that names it.

    >>> Split(train=("a/rot000",), validation=(), test=("a/rot090",))
    Traceback (most recent call last):
    ValueError: 'a/rot000' in train and 'a/rot090' in test are one character: keep it in one part
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        met: dict[str, tuple[str, str]] = {}
        for part in fields(self):
            for name in getattr(self, part.name):
                other, other_part = met.setdefault(character_of(name), (name, part.name))
                if other_part != part.name:
                    raise ValueError(
                        f"{other!r} in {other_part} and {name!r} in {part.name} are one character: "
                        "keep it in one part"
                    )


def hashed_split(names: Sequence[str], sizes: tuple[int, int, int] = (1028, 172, 423)) -> Split:
    """The default split: characters in the order of the sha256 of their names, cut at `sizes`.

    It depends on no file, no seed and no order of `names`. `sizes` count characters, and the
    rotations of one follow it into its part; the default is the usual 1,200 and 423 of Omniglot,
    with 172 of the 1,200 for validation. ValueError when they do not add up to the characters
    there are.

    >>> hashed_split(["a", "b", "c", "d"], sizes=(2, 1, 1))
    Split(train=('c', 'd'), validation=('b',), test=('a',))
    """
    characters = sorted({character_of(name) for name in names}, key=_hash)
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
    """The makers' split: tested on evaluation, trained on background less a hashed 172/1200 of it.

    That is 826 characters to train on, 138 to validate and 659 to test, and no alphabet of the test
    is met before.

    >>> none = Characters((), torch.zeros(0, 20, 28, 28, dtype=torch.uint8))
    >>> folder_split(Omniglot(none, none))
    Split(train=(), validation=(), test=())
    """
    background = omniglot.background.names
    n_validation = round(len(background) * 172 / 1200)
    held_out = hashed_split(background, (len(background) - n_validation, n_validation, 0))
    return Split(held_out.train, held_out.validation, test=omniglot.evaluation.names)


def listed_split(folder: str | PathLike[str]) -> Split:
    """The split that `train.txt`, `val.txt` and `test.txt` in `folder` list, one class a line.

    A line is `Alphabet/characterNN`, or with the rotation, `Alphabet/characterNN/rotDDD`: then its
    names are those of `rotated()`. FileNotFoundError when a list is missing, ValueError for a line
    that is no class name, a list without any, and a character that is in two lists.

    >>> listed_split("nowhere")
    Traceback (most recent call last):
    FileNotFoundError: no 'nowhere/train.txt': a split is train.txt, val.txt and test.txt
    """
    return Split(
        *(_read_list(Path(folder) / name) for name in ("train.txt", "val.txt", "test.txt"))
    )


def checksum(split: Split) -> str:
    """Twelve hexadecimal digits that tell splits apart; the order inside a part is no matter.

    >>> checksum(Split(("a", "b"), (), ("c",))) == checksum(Split(("b", "a"), (), ("c",)))
    True
    """
    return _hash(repr([sorted(getattr(split, part.name)) for part in fields(split)]))[:12]


def _read_part(folder: Path, part: str, size: int, progress: bool) -> Characters:
    source = _find_part(folder, part)
    files = _read_zip(source) if source.suffix == ".zip" else _read_folder(source)
    classes = _by_class(files, source)
    images = np.zeros((len(classes), DRAWERS, size, size), np.uint8)
    for index, name in enumerate(_with_bar(sorted(classes), part, progress)):
        for drawing, file in enumerate(classes[name]):
            images[index, drawing] = _decode(files[file], size, f"{file!r} in {str(source)!r}")
    return Characters(tuple(sorted(classes)), torch.from_numpy(images))


def _find_part(folder: Path, part: str) -> Path:
    for place in (folder, folder / "omniglot-py"):
        if (place / f"{part}.zip").is_file():
            return place / f"{part}.zip"
        if (place / part).is_dir():
            return place / part
    raise FileNotFoundError(
        f"neither {part}.zip nor a folder {part} in {str(folder)!r} or its omniglot-py: "
        f"download_omniglot({str(folder)!r}) fetches it"
    )


def _read_folder(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.glob("**/*.png")}


def _read_zip(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                file: archive.read(file) for file in archive.namelist() if file.endswith(".png")
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(
            f"{str(path)!r} is damaged or cut short: remove it and download it again"
        ) from error


def _by_class(files: dict[str, bytes], source: Path) -> dict[str, list[str]]:
    """The files of each class in the order of their drawers, who are 1 to 20."""
    drawn: dict[str, list[tuple[int, str]]] = {}
    for file in files:
        if match := _DRAWING.search(file):
            drawn.setdefault(match[1], []).append((int(match[2]), file))
    if not drawn:
        raise FileNotFoundError(
            f"no drawings in {str(source)!r}: they are named <Alphabet>/characterNN/NNNN_DD.png"
        )
    for name, drawings in drawn.items():
        drawings.sort()
        if [drawer for drawer, _ in drawings] != list(range(1, DRAWERS + 1)):
            raise ValueError(
                f"{len(drawings)} drawings of {name} in {str(source)!r}, where Omniglot has one "
                f"by each of {DRAWERS} drawers: unpack or download it again"
            )
    return {name: [file for _, file in drawings] for name, drawings in drawn.items()}


def _decode(png: bytes, size: int, where: str) -> UInt8[np.ndarray, "size size"]:
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_NEEDS.format("reading Omniglot", "Pillow")) from error
    try:
        ink = ImageOps.invert(Image.open(io.BytesIO(png)).convert("L"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"cannot decode {where}: unpack or download it again") from error
    # Of Pillow's antialiasing filters LANCZOS keeps thin strokes strongest: scaled to 28, the
    # faintest drawing still peaks at 160 of 255, where BOX leaves 143 and BILINEAR 127.
    return np.asarray(ink.resize((size, size), Image.Resampling.LANCZOS))


def _with_bar(names: list[str], part: str, progress: bool) -> Iterator[str]:
    if not progress:
        return iter(names)
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            _NEEDS.format("the progress bar", "tqdm") + ", or progress=False"
        ) from error
    return iter(tqdm(names, desc=part, unit=" characters"))


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
