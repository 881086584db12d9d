"""Embeddings of every drawing, computed once for all protocols."""

from itertools import chain

import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor, nn
from torch.nn.functional import normalize

from rarememory.base.validation import check_count
from rarememory.data.jitter import Jitter

SMALL_JITTER = Jitter(degrees=6.0, scale=0.06, shear=0.07, shift=0.03)
"""Less than that of training: a copy should look like the drawing."""


@torch.no_grad()
def embed(
    encoder: nn.Module,
    images: UInt8[Tensor, "classes drawings height width"],
    *,
    batch_size: int = 512,
) -> Float[Tensor, "classes drawings key_dim"]:
    """The encoder's output for every drawing, in evaluation mode; its modes are restored after.

    Args:
        encoder: images [batch, 1, height, width] in [0, 1] to [batch, key_dim].
        images: ink 255 on 0, the same number of drawings for each class.
        batch_size: drawings in one call of the encoder.

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
        keys = [encoder(batch.to(device) / 255) for batch in flat.split(batch_size)]
    finally:
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(keys).view(*images.shape[:2], -1)


def embed_averaged(
    encoder: nn.Module,
    images: UInt8[Tensor, "classes drawings height width"],
    *,
    jitter: Jitter = SMALL_JITTER,
    copies: int = 4,
    batch_size: int = 512,
    seed: int = 0,
) -> Float[Tensor, "classes drawings key_dim"]:
    """For every drawing the mean of the embeddings of it and of jittered copies of it.

    mean of f(x) / |f(x)|, f(x_1) / |f(x_1)|, ..., f(x_copies) / |f(x_copies)|

    Arguments are as in `embed`, and it takes (copies + 1) times as long: report it as test-time
    augmentation. The same seed and batch_size give the same embeddings.

    Args:
        jitter: of the copies.
        copies: beside the drawing itself.
        seed: of the jitter.

    Raises:
        ValueError: `copies` is less than 1.

    Example:
        >>> from rarememory.backbones import Conv4
        >>> from rarememory.data import draw_glyphs
        >>> embed_averaged(Conv4(key_dim=16), draw_glyphs(3, 2).images, copies=2).shape
        torch.Size([3, 2, 16])
    """
    check_count("copies", copies)
    return embed(_Averaged(encoder, jitter, copies, seed), images, batch_size=batch_size)


class _Averaged(nn.Module):
    def __init__(self, encoder: nn.Module, jitter: Jitter, copies: int, seed: int) -> None:
        super().__init__()
        self.encoder, self.jitter, self.copies = encoder, jitter, copies
        self.generator = Generator().manual_seed(seed)

    def forward(self, images: Float[Tensor, "batch 1 height width"]) -> Tensor:
        copies = (self.jitter(images, self.generator) for _ in range(self.copies))
        keys = [normalize(self.encoder(view), dim=1) for view in (images, *copies)]
        return torch.stack(keys).mean(0)
