"""Drawings that differ as hands do: a small random map of every image of a batch."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

_COARSE = (4, 4)
"""Places of the field that bends: a stroke has a few of them, so that it stays one stroke."""


class Warp(NamedTuple):
    """Where each place of a batch of images comes from: matrix @ place + shift + field(place).

    Places are counted as `grid_sample` counts them: from -1 to 1, across and down.

    Attributes:
        matrices: one an image.
        shifts: one an image.
        fields: what is added at every place.

    Example:
        >>> warp = Jitter().warp(3, 28, Generator())
        >>> warp.shifts.shape, warp.fields.shape
        (torch.Size([3, 2, 1]), torch.Size([3, 28, 28, 2]))
    """

    matrices: Float[Tensor, "batch 2 2"]
    shifts: Float[Tensor, "batch 2 1"]
    fields: Float[Tensor, "batch size size 2"]

    def after(self, other: "Warp") -> "Warp":
        """Both in one, so that an image is sampled, and blurred, once.

        The fields are added: they are smooth and small, and so nearly what one after the other is.

        Example:
            >>> turn = Jitter(9.0, scale=0.0, shear=0.0, shift=0.0).warp(1, 28, Generator())
            >>> bool((turn.after(turn).matrices == turn.matrices @ turn.matrices).all())
            True
        """
        return Warp(
            self.matrices @ other.matrices,
            self.matrices @ other.shifts + self.shifts,
            self.fields + other.fields,
        )

    def of(self, rows: Int64[Tensor, " rows"]) -> "Warp":
        """Those of some images, in this order, repeated or not.

        Example:
            >>> Jitter().warp(3, 28, Generator()).of(torch.tensor([2, 2, 0, 1])).shifts.shape
            torch.Size([4, 2, 1])
        """
        return Warp(*(part[rows] for part in self))

    def __call__(
        self, images: Float[Tensor, "batch 1 size size"]
    ) -> Float[Tensor, "batch 1 size size"]:
        """The images, moved; what comes from outside of one is blank."""
        maps = torch.cat([self.matrices, self.shifts], dim=2)
        grid = affine_grid(maps, list(images.shape), align_corners=False) + self.fields
        return grid_sample(images, grid, align_corners=False)


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

    def __call__(
        self, images: Float[Tensor, "batch 1 size size"], generator: Generator
    ) -> Float[Tensor, "batch 1 size size"]:
        """A jittered copy; `generator` lives on the CPU."""
        return self.warp(len(images), images.shape[-1], generator, images.device)(images)

    def warp(
        self, n_images: int, size: int, generator: Generator, device: torch.device | None = None
    ) -> Warp:
        """The maps of so many images, drawn: to give several drawings the same, or to join two.

        Example:
            >>> Jitter(bend=0.02).warp(2, 28, Generator())(torch.rand(2, 1, 28, 28)).shape
            torch.Size([2, 1, 28, 28])
        """
        draws = torch.rand(7, n_images, generator=generator).to(device) * 2 - 1
        angle = draws[0] * math.radians(self.degrees)
        turn = _matrices(angle.cos(), -angle.sin(), angle.sin(), angle.cos())
        wide, high = (draws[1:3] * self.scale).exp()
        stretch = _matrices(wide, draws[3] * self.shear, draws[4] * self.shear, high)
        # Places are counted in half widths.
        shifts = (draws[5:7] * 2 * self.shift).T.unsqueeze(2)
        return Warp(turn @ stretch, shifts, self._fields(n_images, size, generator).to(device))

    def _fields(self, n_images: int, size: int, generator: Generator) -> Tensor:
        if not self.bend:
            return torch.zeros(()).expand(n_images, size, size, 2)
        draws = torch.randn(n_images, 2, *_COARSE, generator=generator)
        fine = interpolate(draws, size=(size, size), mode="bicubic", align_corners=True)
        return 2 * self.bend * fine.permute(0, 2, 3, 1)


def _matrices(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([a, b, c, d], dim=1).view(-1, 2, 2)
