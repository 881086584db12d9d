"""Images from files, and image encoders by name, for the command line."""

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
    """A model that computes features of an image.

    Attributes:
        model: the module.
        at: name of the layer whose input is the features; None for the model's output.
        prepare: converts a Pillow image to a tensor.
    """

    model: nn.Module
    at: str | None
    prepare: Callable[[Any], Tensor]


def encoder_by_name(name: str) -> Encoder:
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
    return Encoder(model, linears[-1], lambda image: prepare(image.convert("RGB")))


def ink(image: Any) -> Tensor:
    """A drawing as Omniglot has it: [1, 28, 28], ink 1 on 0, whether ink or paper is lighter."""
    from PIL import Image, ImageOps

    gray = image.convert("L")
    if np.asarray(gray).mean() > 127:
        gray = ImageOps.invert(gray)
    small = gray.resize((28, 28), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(small, dtype=np.float32) / 255).unsqueeze(0)


def open_image(path: Path) -> Any:
    """The Pillow image in a file.

    Raises:
        ValueError: the file is missing, or is no image.
        ModuleNotFoundError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_NEEDS.format("reading images", "Pillow")) from error
    try:
        with Image.open(path) as image:
            return image.copy()
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as an image: {error}") from error


def labelled_files(folder: Path) -> list[tuple[Path, str]]:
    """The images of a folder that has one folder for each class, with their classes.

    Raises:
        ValueError: there is no such folder, or it has no folder with an image.
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
            f"{str(folder)!r} has {len(classes)} folders and no image in them: give a folder "
            "with one folder of images for each class, as in birds/kea/1.jpg"
        )
    return files


def batches(
    files: list[tuple[Path, str]], encoder: Encoder, size: int = 32
) -> Iterator[tuple[Tensor, list[str], list[str]]]:
    """Batches of (images, labels, paths), as `MemoryClassifier.learn` takes them."""
    for start in range(0, len(files), size):
        some = files[start : start + size]
        images = torch.stack([encoder.prepare(open_image(path)) for path, _ in some])
        yield images, [label for _, label in some], [path.as_posix() for path, _ in some]
