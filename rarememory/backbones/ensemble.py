"""Several encoders side by side, as one."""

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
    """Encoders whose keys stand side by side: a cosine of them is the mean of the members' cosines.

    f(x) = [f_1(x) / |f_1(x)|, ..., f_n(x) / |f_n(x)|]

    Encoders that differ in nothing but the seed of their training err in different places, and
    their mean errs less than any of them. It takes as long as all of them together, in training
    and in use, and keys as wide as all of theirs.

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
