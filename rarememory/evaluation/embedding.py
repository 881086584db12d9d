"""Embeddings made once: every protocol picks from them."""

from itertools import chain

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn


@torch.no_grad()
def embed(
    encoder: nn.Module,
    images: UInt8[Tensor, "classes drawings height width"],
    *,
    batch_size: int = 512,
) -> Float[Tensor, "classes drawings key_dim"]:
    """What the encoder makes of every drawing, in evaluation mode; its own modes are put back.

    Args:
        encoder: images [batch, 1, height, width] in [0, 1] to [batch, key_dim].
        images: ink 255 on 0, in as many drawings a class.
        batch_size: drawings that it sees at once.

    Example:
        >>> from rarememory.backbones import Conv4
        >>> from rarememory.data import draw_glyphs
        >>> embed(Conv4(key_dim=16), draw_glyphs(3, 2).images).shape
        torch.Size([3, 2, 16])
    """
    device = next(chain(encoder.parameters(), [images])).device
    modes = {module: module.training for module in encoder.modules()}
    encoder.eval()
    try:
        flat = images.flatten(0, 1).unsqueeze(1)
        keys = [encoder(some.to(device) / 255) for some in flat.split(batch_size)]
    finally:
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(keys).view(*images.shape[:2], -1)
