"""Augmentation of drawings: a small random distortion of every image of a batch."""

import math
from dataclasses import astuple, dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

_COARSE = (4, 4)
"""Points of the bending field: so few that a stroke bends smoothly."""


@dataclass(frozen=True)
class Jitter:
    """Random rotation, scale, shear, shift and bending, different for every image.

    Bending moves every pixel by a smooth random field: a coarse grid of normal draws, interpolated
    to the size of the image (elastic distortion; Simard et al. 2003, "Best Practices for
    Convolutional Neural Networks", section 2).

    Args:
        degrees: largest rotation.
        scale: largest logarithm of the factor of each axis.
        shear: the largest.
        shift: the largest, as part of the image's width.
        bend: standard deviation of the draws, as part of the image's width; 0 bends nothing.

    Example:
        >>> Jitter()(torch.rand(2, 1, 28, 28), Generator()).shape
        torch.Size([2, 1, 28, 28])
    """

    degrees: float = 12.0
    scale: float = 0.12
    shear: float = 0.15
    shift: float = 0.07
    bend: float = 0.0

    def scaled(self, factor: float) -> "Jitter":
        """The same with every number multiplied by the factor."""
        return Jitter(*(factor * strength for strength in astuple(self)))

    def __call__(
        self, images: Float[Tensor, "batch 1 height width"], generator: Generator
    ) -> Float[Tensor, "batch 1 height width"]:
        """A jittered copy; `generator` lives on the CPU."""
        draws = torch.rand(7, len(images), generator=generator) * 2 - 1
        draws = draws.to(images.device, non_blocking=True)
        angle = draws[0] * math.radians(self.degrees)
        rotation = _matrices(angle.cos(), -angle.sin(), angle.sin(), angle.cos())
        wide, high = (draws[1:3] * self.scale).exp()
        stretch = _matrices(wide, draws[3] * self.shear, draws[4] * self.shear, high)
        # affine_grid counts in half widths.
        shift = (draws[5:7] * 2 * self.shift).T.unsqueeze(2)
        maps = torch.cat([rotation @ stretch, shift], dim=2)
        grid = affine_grid(maps, list(images.shape), align_corners=False)
        if self.bend:
            grid = grid + self._field(images, generator)
        return grid_sample(images, grid, align_corners=False)

    def _field(
        self, images: Float[Tensor, "batch 1 height width"], generator: Generator
    ) -> Float[Tensor, "batch height width 2"]:
        draws = torch.randn(len(images), 2, *_COARSE, generator=generator)
        draws = draws.to(images.device, non_blocking=True)
        # One axis after the other takes a tenth of the time of `interpolate` on both.
        down, across = (
            _bicubic(coarse, fine, images.device)
            for coarse, fine in zip(_COARSE, images.shape[2:], strict=True)
        )
        return 2 * self.bend * torch.einsum("nxij,ih,jw->nhwx", draws, down, across)


def _bicubic(coarse: int, fine: int, device: torch.device) -> Float[Tensor, "coarse fine"]:
    """The matrix that interpolates a line of `coarse` points to `fine` points."""
    line = torch.eye(coarse, device=device).view(1, coarse, coarse, 1)
    return interpolate(line, size=(fine, 1), mode="bicubic", align_corners=True)[0, :, :, 0]


def _matrices(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([a, b, c, d], dim=1).view(-1, 2, 2)
