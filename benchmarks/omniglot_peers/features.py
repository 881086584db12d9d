"""What no training makes of a drawing: its pixels, and the directions of its strokes."""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from benchmarks.omniglot_peers.drawings import Images
from benchmarks.omniglot_peers.tasks import Embeddings


def pixels(images: Images) -> Embeddings:
    """The ink itself."""
    return images.flatten(2) / 255


def oriented_gradients(images: Images) -> Embeddings:
    """Histograms of oriented gradients (Dalal and Triggs 2005)."""
    rows = [_histograms(some) for some in images.flatten(0, 1).split(2048)]
    return torch.cat(rows).view(*images.shape[:2], -1)


def _histograms(
    images: UInt8[Tensor, "batch height width"], cell: int = 4, bins: int = 6
) -> Float[Tensor, "batch dim"]:
    """Cells vote for directions without sign; blocks of 2 x 2 cells have unit length.

    Cell and bins are the best of four choices on the validation characters.
    """
    down, across = torch.gradient(images / 255, dim=(1, 2))
    strength = down.hypot(across).unsqueeze(1)
    place = (torch.atan2(down, across) / math.pi * bins % bins).unsqueeze(1)
    # A direction between two bins votes for both.
    lower, share = place.long() % bins, place.frac()
    votes = strength.new_zeros(len(images), bins, *images.shape[1:])
    votes.scatter_add_(1, lower, strength * (1 - share))
    votes.scatter_add_(1, (lower + 1) % bins, strength * share)
    blocks = avg_pool2d(votes, cell).unfold(2, 2, 1).unfold(3, 2, 1)
    return normalize(blocks.permute(0, 2, 3, 1, 4, 5).flatten(3), dim=3).flatten(1)
