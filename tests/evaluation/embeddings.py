"""Embeddings to test by: neither too easy nor too hard."""

import torch
from torch import Tensor


def noisy(classes: int = 9, drawings: int = 7, spread: float = 0.9) -> Tensor:
    """Of width 5: drawings that scatter about the centre of their class."""
    centres = torch.randn(classes, 1, 5)
    return centres + spread * torch.randn(classes, drawings, 5)
