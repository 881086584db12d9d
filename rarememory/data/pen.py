"""The path of a pen as an image, for glyphs and for drawings on a page."""

import numpy as np
from jaxtyping import Float, UInt8


def rasterize(
    places: Float[np.ndarray, "places xy"], radius: float, size: int
) -> UInt8[np.ndarray, "size size"]:
    """Size x size pixels, 255 within the radius of any place, fading to 0 over the next pixel.

    Places are close together, in pixels: (0, 0) is the middle of the first pixel, and what lies
    outside of the image is cut off.

    >>> rasterize(np.array([[1.0, 0.0]]), 0.5, 3).tolist()
    [[0, 255, 0], [0, 0, 0], [0, 0, 0]]
    """
    # In parts, so that a long path takes no more room than a short one.
    nearest = np.full((size, size), np.inf, dtype=np.float32)
    for start in range(0, len(places), _PART):
        part = places[start : start + _PART, :, None]
        offsets = (part - np.arange(size)).astype(np.float32) ** 2
        squares = (offsets[:, 0, None, :] + offsets[:, 1, :, None]).min(axis=0)
        nearest = np.minimum(nearest, squares)
    distance = np.sqrt(nearest)
    ink = np.clip(radius + 0.5 - distance, 0, 1)
    return np.asarray(255 * ink + 0.5, dtype=np.uint8)


_PART = 1024
