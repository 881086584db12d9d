"""Downloading and reading Omniglot: 1,623 handwritten characters by 20 drawers each.

By Lake, Salakhutdinov and Tenenbaum (2015): 50 alphabets in two parts, background (964 characters)
and evaluation (659). Reading needs Pillow and tqdm, downloading needs torchvision.
"""

import io
import re
import zipfile
import zlib
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from rarememory.base.progress import progress_bar
from rarememory.data.characters import Characters

DRAWERS = 20

_DRAWING = re.compile(r"(?:^|/)([^/]+/character\d+)/\d{4}_(\d{2})\.png")
_NEEDS = '{} needs {}: pip install "rarememory[vision]"'


class Omniglot(NamedTuple):
    """The two parts of Omniglot, of different alphabets.

    >>> blank = torch.zeros(1, 20, 28, 28, dtype=torch.uint8)
    >>> greek, keble = (Characters((f"{name}/character01",), blank) for name in ("Greek", "Keble"))
    >>> Omniglot(background=greek, evaluation=keble).characters.names
    ('Greek/character01', 'Keble/character01')
    """

    background: Characters
    evaluation: Characters

    @property
    def characters(self) -> Characters:
        """All characters of both parts, sorted by name."""
        names = self.background.names + self.evaluation.names
        images = torch.cat([self.background.images, self.evaluation.images])
        return Characters(names, images).select(sorted(names))


def read_omniglot(folder: str | PathLike[str], size: int = 28, progress: bool = True) -> Omniglot:
    """Every drawing in `folder`, ink 255 on 0, scaled to size x size.

    Each part is `images_background.zip` (or `images_evaluation.zip`) or that zip unpacked, in
    `folder` or, as torchvision has it, in `folder/omniglot-py`; the zip is preferred. Classes are
    sorted by name and drawings by drawer. A part may have fewer characters than the original, but
    each has 20 drawings.

    FileNotFoundError if a part is missing or empty, ValueError if a file is damaged,
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
    """Download both parts by torchvision into `folder`, which is returned for `read_omniglot`.

    Files that are there already are not downloaded again. ModuleNotFoundError without torchvision.

    >>> read_omniglot(download_omniglot("data"))  # doctest: +SKIP
    """
    try:
        import torchvision
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_NEEDS.format("downloading Omniglot", "torchvision")) from error
    for background in (True, False):
        torchvision.datasets.Omniglot(str(folder), background=background, download=True)
    return Path(folder)


def _read_part(folder: Path, part: str, size: int, progress: bool) -> Characters:
    source = _find_part(folder, part)
    files = _read_zip(source) if source.suffix == ".zip" else _read_folder(source)
    classes = _by_class(files, source)
    images = np.zeros((len(classes), DRAWERS, size, size), np.uint8)
    bar = progress_bar(sorted(classes), description=part, unit=" characters", show=progress)
    for index, name in enumerate(bar):
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
    """The files of each class in the order of their drawers, 1 to 20."""
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
