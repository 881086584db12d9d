"""A small residual network (He et al. 2016), which two cores train in half an hour."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Residual(nn.Module):
    """A stem, three residual blocks that each halve the image first, and a linear layer.

    There is no average pooling before the linear layer, since the position of a stroke matters.

    Args:
        key_dim: width of the embeddings.
        size: of the images.
        widths: channels of the stem and of each block.
        stride: of the stem; with 2, images of twice the size take little more time.

    Example:
        >>> import torch
        >>> Residual(key_dim=128)(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 128])
    """

    def __init__(
        self,
        key_dim: int = 128,
        *,
        size: int = 28,
        widths: tuple[int, ...] = (32, 64, 128, 128),
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.size = size
        stem, *blocks = widths
        # The kernel is wide enough that no pixel is skipped.
        self.features = nn.Sequential(_convolution(1, stem, 2 * stride + 1, stride), nn.ReLU())
        channels, size = stem, -(-size // stride)
        for wider in blocks:
            # Rounding up keeps the border: 28, 14, 7, 4.
            self.features.append(nn.MaxPool2d(2, ceil_mode=True)).append(_Block(channels, wider))
            channels, size = wider, -(-size // 2)
        self.head = nn.Linear(channels * size**2, key_dim)

    def forward(self, images: Float[Tensor, "batch 1 size size"]) -> Float[Tensor, "batch key_dim"]:
        keys: Tensor = self.head(self.features(images).flatten(1))
        return keys


class _Block(nn.Module):
    def __init__(self, channels: int, wider: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            _convolution(channels, wider, 3), nn.ReLU(), _convolution(wider, wider, 3)
        )
        self.keep = nn.Identity() if channels == wider else _convolution(channels, wider, 1)

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.keep(images) + self.change(images))


def _convolution(channels: int, wider: int, width: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, wider, width, stride=stride, padding=width // 2, bias=False),
        nn.BatchNorm2d(wider),
    )
