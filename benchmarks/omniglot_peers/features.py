"""Features of a drawing that need no training: its pixels, and the directions of its strokes."""

import numpy as np
import torch
from skimage.feature import hog

from benchmarks.omniglot_peers.drawings import Images
from benchmarks.omniglot_peers.tasks import Embeddings


def pixels(images: Images) -> Embeddings:
    """The ink itself."""
    return images.flatten(2) / 255


def oriented_gradients(images: Images) -> Embeddings:
    """Histograms of oriented gradients (Dalal and Triggs 2005), by scikit-image.

    Blocks of 2 x 2 cells have unit length; a gradient votes by its length for one of six unsigned
    directions. Cells of 4 or 7 pixels and six or nine directions were tried on the validation
    characters; these are the best.
    """
    rows = [
        hog(image, orientations=6, pixels_per_cell=(4, 4), cells_per_block=(2, 2), block_norm="L2")
        for image in images.flatten(0, 1).numpy() / 255
    ]
    return torch.from_numpy(np.stack(rows).astype(np.float32)).view(*images.shape[:2], -1)
