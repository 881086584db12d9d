"""The encoder that ships with the package: a residual network trained on Omniglot's characters."""

from importlib.resources import files

from safetensors.torch import load

from rarememory.backbones.residual import Residual


def omniglot_encoder() -> Residual:
    """The shipped encoder of 28x28 drawings, ink 1 on 0, in evaluation mode; key_dim is 128.

    Its weights are stored in half precision. They were trained on the training characters of the
    Vinyals split by `python -m benchmarks.omniglot --data <folder> --split <lists> --weights
    rarememory/weights/omniglot.safetensors`, and it is these weights that the benchmark tested.

    Example:
        >>> import torch
        >>> omniglot_encoder()(torch.zeros(1, 1, 28, 28)).shape
        torch.Size([1, 128])
    """
    stored = load((files("rarememory") / "weights" / "omniglot.safetensors").read_bytes())
    encoder = Residual(key_dim=128)
    encoder.load_state_dict(stored)
    return encoder.eval()
