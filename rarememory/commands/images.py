"""Pictures from files, and encoders of them by name, for the command line."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rarememory.backbones import omniglot_encoder

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}

_NEEDS = '{} needs {}: pip install "rarememory[vision]"'


class Encoder(NamedTuple):
    """What makes features of a picture.

    Attributes:
        model: the module.
        at: the layer whose input are the features; None for the output.
        prepare: makes a tensor of a picture of Pillow.
    """

    model: nn.Module
    at: str | None
    prepare: Callable[[Any], Tensor]


def encoder_called(name: str) -> Encoder:
    """The encoder of this name: "omniglot", which ships, or a classifier of torchvision.

    Raises:
        ValueError: there is none of that name, or its weights cannot be downloaded.
        ModuleNotFoundError: it needs torchvision, which is not installed.
    """
    if name == "omniglot":
        return Encoder(omniglot_encoder(), None, ink)
    try:
        from torchvision import models
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_NEEDS.format(f"the encoder {name!r}", "torchvision")) from error
    try:
        weights = models.get_model_weights(name).DEFAULT
    except ValueError:
        raise ValueError(
            f"no encoder is called {name!r}: choose omniglot (for drawings), or a classifier of "
            "torchvision such as resnet18 (for photographs)"
        ) from None
    try:
        model = models.get_model(name, weights=weights)
    except OSError as error:
        raise ValueError(
            f"the weights of {name!r} could not be downloaded ({error}): try again with a network, "
            "or choose omniglot, which ships with the package"
        ) from error
    linears = [at for at, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not linears:
        raise ValueError(f"{name!r} has no Linear at its end: choose another, such as resnet18")
    prepare = weights.transforms()
    return Encoder(model, linears[-1], lambda picture: prepare(picture.convert("RGB")))


def ink(picture: Any) -> Tensor:
    """A drawing [1, 28, 28] as Omniglot has it: ink 1 on 0, whichever of both is the lighter."""
    from PIL import Image, ImageOps

    gray = picture.convert("L")
    if np.asarray(gray).mean() > 127:
        gray = ImageOps.invert(gray)
    small = gray.resize((28, 28), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(small, dtype=np.float32) / 255).unsqueeze(0)


def opened(path: Path) -> Any:
    """The picture in a file.

    Raises:
        ValueError: it is missing, or no picture.
        ModuleNotFoundError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_NEEDS.format("reading pictures", "Pillow")) from error
    try:
        with Image.open(path) as picture:
            return picture.copy()
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as a picture: {error}") from error


def labelled_files(folder: Path) -> list[tuple[Path, str]]:
    """Every picture below a folder that has a folder for each class, and its class.

    Raises:
        ValueError: there is no such folder, no folder in it, or no picture in them.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r}")
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [
        (path, one.name)
        for one in classes
        for path in sorted(one.rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise ValueError(
            f"{str(folder)!r} holds {len(classes)} folders and no picture in them: give a folder "
            "with a folder of pictures for each class, as in birds/kea/1.jpg"
        )
    return files


def batches(
    files: list[tuple[Path, str]], encoder: Encoder, size: int = 32
) -> Iterator[tuple[Tensor, list[str], list[str]]]:
    """Pictures, labels and paths, some at a time, as `MemoryClassifier.learn` takes them."""
    for start in range(0, len(files), size):
        some = files[start : start + size]
        pictures = torch.stack([encoder.prepare(opened(path)) for path, _ in some])
        yield pictures, [label for _, label in some], [path.as_posix() for path, _ in some]
