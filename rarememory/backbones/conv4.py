"""Conv-4, the usual small backbone of the few-shot field (Vinyals et al. 2016, section 4.1)."""

from jaxtyping import Float
from torch import Tensor, nn


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, batch norm, ReLU and pooling, and a linear layer.

    The last block does not pool: at 28x28 nine places are left, not one.

    Example:
        >>> import torch
        >>> Conv4(key_dim=128)(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 128])
    """

    def __init__(self, key_dim: int = 128, *, size: int = 28, width: int = 64) -> None:
        super().__init__()
        self.size = size
        layers: list[nn.Module] = []
        for channels in (1, width, width, width):
            layers += [
                nn.Conv2d(channels, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        self.features = nn.Sequential(*layers[:-1], nn.Flatten())
        self.head = nn.Linear(width * (size // 8) ** 2, key_dim)

    def forward(self, images: Float[Tensor, "batch 1 size size"]) -> Float[Tensor, "batch key_dim"]:
        keys: Tensor = self.head(self.features(images))
        return keys
