"""Drawings that differ as hands do: a small random map of every image of a batch."""

import math
from dataclasses import astuple, dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

_COARSE = (4, 4)
"""Places of the field that bends: a stroke has a few of them, so that it stays one stroke."""


@dataclass(frozen=True)
class Jitter:
    """Random rotation, scale, shear, shift and bending, drawn anew for every image.

    Bending moves every place by a smooth random field, as hands do that hold a pen (Simard et al.
    2003, "Best Practices for Convolutional Neural Networks", section 2, has such distortions): a
    coarse grid of normal draws, made as fine as the image by bicubic interpolation.

    Args:
        degrees: of rotation, at most.
        scale: logarithm of the factor of each axis, at most.
        shear: at most.
        shift: part of the image's width, at most.
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
        """The same, so many times as strong.

        Example:
            >>> Jitter(degrees=12.0).scaled(0.5).degrees
            6.0
        """
        return Jitter(*(factor * strength for strength in astuple(self)))

    def __call__(
        self, images: Float[Tensor, "batch 1 height width"], generator: Generator
    ) -> Float[Tensor, "batch 1 height width"]:
        """A jittered copy; `generator` lives on the CPU."""
        draws = torch.rand(7, len(images), generator=generator) * 2 - 1
        draws = draws.to(images.device, non_blocking=True)
        angle = draws[0] * math.radians(self.degrees)
        turn = _matrices(angle.cos(), -angle.sin(), angle.sin(), angle.cos())
        wide, high = (draws[1:3] * self.scale).exp()
        stretch = _matrices(wide, draws[3] * self.shear, draws[4] * self.shear, high)
        # affine_grid counts in half widths.
        shift = (draws[5:7] * 2 * self.shift).T.unsqueeze(2)
        maps = torch.cat([turn @ stretch, shift], dim=2)
        grid = affine_grid(maps, list(images.shape), align_corners=False)
        if self.bend:
            grid = grid + self._field(images, generator)
        return grid_sample(images, grid, align_corners=False)

    def _field(
        self, images: Float[Tensor, "batch 1 height width"], generator: Generator
    ) -> Float[Tensor, "batch height width 2"]:
        draws = torch.randn(len(images), 2, *_COARSE, generator=generator)
        draws = draws.to(images.device, non_blocking=True)
        # Along one axis and then the other: a tenth of the time that `interpolate` takes for both.
        down, across = (
            _bicubic(coarse, fine, images.device)
            for coarse, fine in zip(_COARSE, images.shape[2:], strict=True)
        )
        return 2 * self.bend * torch.einsum("nxij,ih,jw->nhwx", draws, down, across)


def _bicubic(coarse: int, fine: int, device: torch.device) -> Float[Tensor, "coarse fine"]:
    """What every place of a coarse line adds to those of a fine one."""
    line = torch.eye(coarse, device=device).view(1, coarse, coarse, 1)
    return interpolate(line, size=(fine, 1), mode="bicubic", align_corners=True)[0, :, :, 0]


def _matrices(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([a, b, c, d], dim=1).view(-1, 2, 2)
