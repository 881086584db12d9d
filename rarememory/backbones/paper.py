"""The CNN of "Learning to Remember Rare Events" (Kaiser et al. 2017, section 4)."""

from jaxtyping import Float
from torch import Tensor, nn


class PaperCNN(nn.Module):
    """Two pairs of 3x3 convolutions, each pooled, and two linear layers with dropout between.

    The authors' code has one linear layer instead of two. The paper gives no dropout rate.

    Example:
        >>> import torch
        >>> PaperCNN(key_dim=128)(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 128])
    """

    def __init__(self, key_dim: int = 256, *, size: int = 28, dropout: float = 0.5) -> None:
        super().__init__()
        self.size = size
        self.features = nn.Sequential(*_pooled_pair(1, 64), *_pooled_pair(64, 128), nn.Flatten())
        self.head = nn.Sequential(
            nn.Linear(128 * (size // 4) ** 2, 256),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(256, key_dim),
        )

    def forward(self, images: Float[Tensor, "batch 1 size size"]) -> Float[Tensor, "batch key_dim"]:
        keys: Tensor = self.head(self.features(images))
        return keys


def _pooled_pair(channels: int, wider: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, wider, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(wider, wider, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
