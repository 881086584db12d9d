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
    offsets = (places[:, :, None] - np.arange(size)).astype(np.float32) ** 2
    distance = np.sqrt((offsets[:, 0, None, :] + offsets[:, 1, :, None]).min(axis=0))
    ink = np.clip(radius + 0.5 - distance, 0, 1)
    return np.asarray(255 * ink + 0.5, dtype=np.uint8)
