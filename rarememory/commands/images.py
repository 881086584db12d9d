"""Images from files, as an encoder takes them; one that cannot be read is one sentence."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rarememory.base.files import IMAGE_SUFFIXES
from rarememory.commands.encoders import NEEDS, Encoder

_VISIBLE = 127
"""Alpha above which a place is seen; below it is the soft edge of a stroke."""
_NEARLY_WHITE = 230


def read_image(path: Path, encoder: Encoder) -> Tensor:
    """The image in a file, prepared for an encoder.

    Raises:
        ValueError: the file is missing, or is no image, or one that is broken or too large.
        ModuleNotFoundError: Pillow is not installed.
    """
    prepared: Tensor = open_image(path, encoder.prepare)
    return prepared


def in_colour(image: Any) -> Any:
    """The image with three channels, as most models take it."""
    return image.convert("RGB")


def open_image(path: str | Path, prepare: Callable[[Any], Any] = in_colour) -> Any:
    """The image in a file as a viewer shows it (`as_seen`), prepared for a model.

    Raises:
        ValueError: the file is missing, or is no image, or one that is broken or too large.
        ModuleNotFoundError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(NEEDS.format("reading images", "Pillow")) from error
    path = Path(path)
    if path.suffix.lower() in {".heic", ".heif"}:
        _register_heif(path)
    try:
        # Pillow warns of oddities of a file, and of a large one before it refuses a larger one.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            return prepare(as_seen(image))
    # A broken file ends in whatever Pillow's parser of the format stumbles over: a struct.error, an
    # IndexError, a MemoryError, or an error of Pillow's own for what is too large.
    except Exception as error:
        raise ValueError(f"{str(path)!r} cannot be read as an image: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What an error says, in one line; its kind if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def as_seen(image: Any) -> Any:
    """The image as a viewer shows it: turned upright, in 8 bits, on paper where it is transparent.

    The paper is white, and black where all that is visible is nearly white. Integers of more than 8
    bits are divided by the power of 2 that fits the greatest into 8; of floats the least is black
    and the greatest white.

    Pillow would leave a turned photograph on its side, make every bright number of 16 bits white
    and every float below 1 black, and show what transparent places hide, which is black as a rule.
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray(_bytes_of_integers(np.asarray(image)))
    elif image.mode == "F":
        image = Image.fromarray(_bytes_of_floats(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, _paper_for(np.asarray(image)))
        image = Image.alpha_composite(paper, image).convert("RGB")
    return image


def _bytes_of_integers(numbers: np.ndarray) -> np.ndarray:
    shift = max(0, int(numbers.max()).bit_length() - 8)
    return (numbers >> shift).clip(0, 255).astype(np.uint8)


def _bytes_of_floats(numbers: np.ndarray) -> np.ndarray:
    """All of one number are black, and so is what is no number, which marks places without one."""
    known = np.isfinite(numbers)
    if not known.any():
        return np.zeros(numbers.shape, np.uint8)
    least, greatest = (float(end) for end in (numbers[known].min(), numbers[known].max()))
    parts = (np.where(known, numbers, least).astype(np.float64) - least) / (greatest - least or 1.0)
    return np.round(255 * parts).astype(np.uint8)


def _paper_for(pixels: np.ndarray) -> str:
    """The colour behind transparent places, on which what is visible can be seen."""
    visible = pixels[..., 3] > _VISIBLE
    nearly_white = pixels[..., :3][visible] >= _NEARLY_WHITE
    return "black" if visible.any() and nearly_white.all() else "white"


class Listing(NamedTuple):
    """What is in a folder that has one folder for each class.

    Attributes:
        images: the files with an image, with the names of their classes.
        skipped: what is no image of a class: other files, and folders without an image. Names that
            begin with a dot are left out of both: systems and programs keep their own things there.
    """

    images: list[tuple[Path, str]]
    skipped: list[Path]


def labelled_files(folder: Path) -> Listing:
    """The images of a folder that has one folder for each class, with their classes.

    Raises:
        ValueError: there is no such folder, or it has no folder with an image.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r}")
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    classes = [path for path in entries if path.is_dir()]
    images: list[tuple[Path, str]] = []
    skipped = [path for path in entries if not path.is_dir()]
    for one in classes:
        files = [path for path in sorted(one.rglob("*")) if path.is_file() and _visible(path, one)]
        found = [(path, one.name) for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
        others = [path for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]
        images += found
        skipped += others if found else [one]
    if not images:
        raise ValueError(
            f"{str(folder)!r} has {len(classes)} folders and no image in them: give a folder "
            "with one folder of images for each class, as in birds/kea/1.jpg"
        )
    return Listing(images, skipped)


def batches(
    files: list[tuple[Path, str]], encoder: Encoder, failed: dict[Path, str], size: int = 32
) -> Iterator[tuple[Tensor, list[str], list[str]]]:
    """Batches of (images, labels, paths), as `MemoryClassifier.learn` takes them.

    A file that gives no image, or a blank one, is left out, and `failed` gets a sentence on it.
    """
    for start in range(0, len(files), size):
        images, labels, paths = [], [], []
        for path, label in files[start : start + size]:
            try:
                image = read_image(path, encoder)
                _check_not_blank(image, path)
            except ValueError as error:
                failed[path] = str(error)
                continue
            images.append(image)
            labels.append(label)
            paths.append(path.as_posix())
        if images:
            yield torch.stack(images), labels, paths


def _visible(path: Path, folder: Path) -> bool:
    """Whether neither the file nor a folder between it and `folder` has a name with a dot first."""
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


def _check_not_blank(image: Tensor, path: Path) -> None:
    channels = image.flatten(1)
    if (channels == channels[:, :1]).all():
        raise ValueError(f"{str(path)!r} is blank (all of one colour), and not learnt")


def _register_heif(path: Path) -> None:
    try:
        from pillow_heif import register_heif_opener
    except ModuleNotFoundError as error:
        raise ValueError(f"{str(path)!r} needs pillow-heif: pip install pillow-heif") from error
    register_heif_opener()
