"""Several encoders as one: their keys are concatenated."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from rarememory.backbones.conv4 import Conv4
from rarememory.backbones.paper import PaperCNN
from rarememory.backbones.residual import Residual

Backbone = Residual | Conv4 | PaperCNN


class Ensemble(nn.Module):
    """Encoders whose keys are concatenated, so that a cosine is the mean of the members' cosines.

    f(x) = [f_1(x) / |f_1(x)|, ..., f_n(x) / |f_n(x)|]

    Encoders that differ only in the seed of their training make different errors, and their mean
    makes fewer. Time and key width are the sums of the members'.

    Args:
        encoders: of images of one size, to keys of any width.

    Raises:
        ValueError: there is no encoder, or they take images of different sizes.

    Example:
        >>> encoder = Ensemble([Conv4(key_dim=16), Conv4(key_dim=8)])
        >>> encoder(torch.rand(3, 1, 28, 28)).shape
        torch.Size([3, 24])
    """

    def __init__(self, encoders: Sequence[Backbone]) -> None:
        super().__init__()
        sizes = sorted({encoder.size for encoder in encoders})
        if len(sizes) != 1:
            raise ValueError(
                f"encoders of images of {len(sizes)} sizes, {sizes}: an ensemble is of one"
            )
        (self.size,) = sizes
        self.encoders = nn.ModuleList(encoders)

    def forward(self, images: Float[Tensor, "batch 1 size size"]) -> Float[Tensor, "batch key_dim"]:
        return torch.cat([normalize(encoder(images), dim=1) for encoder in self.encoders], dim=1)
