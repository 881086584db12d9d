"""Reading an encoder from a file of its weights."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rarememory.backbones.conv4 import Conv4
from rarememory.backbones.ensemble import Backbone, Ensemble
from rarememory.backbones.paper import PaperCNN
from rarememory.backbones.residual import Residual

BACKBONES: dict[str, Callable[[int], Backbone]] = {
    "residual": Residual,
    "residual56": partial(Residual, size=56, stride=2, widths=(32, 64, 128, 256)),
    "conv4": Conv4,
    "paper": PaperCNN,
}


def stored_encoder(path: str | PathLike[str]) -> Backbone | Ensemble:
    """The encoder whose weights are in a safetensors file, in evaluation mode.

    The file is written by `save_file(encoder.state_dict(), path)`. Its backbone and key width are
    found by the names and shapes of the weights; `size` is that of its images. An `Ensemble` is
    read with all its members.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no safetensors file, or of none of `BACKBONES`.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import save_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file(Conv4(key_dim=16).state_dict(), f"{folder}/encoder.safetensors")
        ...     encoder = stored_encoder(f"{folder}/encoder.safetensors")
        >>> type(encoder).__name__, encoder(torch.zeros(1, 1, 28, 28)).shape
        ('Conv4', torch.Size([1, 16]))
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is no safetensors file ({error})") from error
    members = _members(stored)
    encoders = [_backbone(weights, path) for weights in members or [stored]]
    return (Ensemble(encoders) if members else encoders[0]).eval()


def _members(stored: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The weights of each member of an ensemble, in order; empty if it is no ensemble."""
    members: dict[int, dict[str, Tensor]] = {}
    for name, tensor in stored.items():
        found = re.fullmatch(r"encoders\.(\d+)\.(.+)", name)
        if found is None:
            return []
        members.setdefault(int(found[1]), {})[found[2]] = tensor
    return [members[number] for number in sorted(members)]


def _backbone(weights: Mapping[str, Tensor], path: str | PathLike[str]) -> Backbone:
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    key_dims = [shape[0] for name, shape in shapes.items() if name.endswith("weight")]
    for backbone in BACKBONES.values():
        with torch.device("meta"):
            encoder = backbone(key_dims[-1] if key_dims else 1)
        if shapes == {name: tensor.shape for name, tensor in encoder.state_dict().items()}:
            encoder = backbone(key_dims[-1])
            encoder.load_state_dict(weights)
            return encoder
    raise ValueError(f"{str(path)!r} holds the weights of none of {', '.join(BACKBONES)}")
