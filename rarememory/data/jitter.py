"""Drawings that differ as hands do: a small random affine map of every image of a batch."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample


@dataclass(frozen=True)
class Jitter:
    """Random rotation, scale, shear and shift, drawn anew for every image.

    Args:
        degrees: of rotation, at most.
        scale: logarithm of the factor of each axis, at most.
        shear: at most.
        shift: part of the image's width, at most.

    Example:
        >>> Jitter()(torch.rand(2, 1, 28, 28), Generator()).shape
        torch.Size([2, 1, 28, 28])
    """

    degrees: float = 12.0
    scale: float = 0.12
    shear: float = 0.15
    shift: float = 0.07

    def __call__(
        self, images: Float[Tensor, "batch 1 height width"], generator: Generator
    ) -> Float[Tensor, "batch 1 height width"]:
        """A jittered copy; `generator` lives on the CPU."""
        draws = torch.rand(7, len(images), generator=generator).to(images.device) * 2 - 1
        angle = draws[0] * math.radians(self.degrees)
        turn = _matrices(angle.cos(), -angle.sin(), angle.sin(), angle.cos())
        wide, high = (draws[1:3] * self.scale).exp()
        stretch = _matrices(wide, draws[3] * self.shear, draws[4] * self.shear, high)
        # affine_grid counts in half widths.
        shift = (draws[5:7] * 2 * self.shift).T.unsqueeze(2)
        maps = torch.cat([turn @ stretch, shift], dim=2)
        grid = affine_grid(maps, list(images.shape), align_corners=False)
        return grid_sample(images, grid, align_corners=False)


def _matrices(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([a, b, c, d], dim=1).view(-1, 2, 2)
