"""Image encoders by name, for the command line."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rarememory.backbones import omniglot_encoder

NEEDS = '{} needs {}: pip install "rarememory[vision]"'


class Encoder(NamedTuple):
    """A model that computes features of an image.

    Attributes:
        model: the module.
        at: name of the layer whose input is the features; None for the model's output.
        prepare: converts a Pillow image to a tensor.
        reader: how a memory of its features is asked.
    """

    model: nn.Module
    at: str | None
    prepare: Callable[[Any], Tensor]
    reader: str = "fitted"


def encoder_by_name(name: str) -> Encoder:
    """The encoder of this name: "omniglot", which ships, or a classifier of torchvision.

    Raises:
        ValueError: there is none of that name, or its weights cannot be downloaded.
        ModuleNotFoundError: it needs torchvision, which is not installed.
    """
    if name == "omniglot":
        # It was trained under a memory, by the cosines that its nearest neighbours have.
        return Encoder(omniglot_encoder(), None, ink, reader="nearest")
    try:
        from torchvision import models
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(NEEDS.format(f"the encoder {name!r}", "torchvision")) from error
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
