"""A drawing is a path of SVG: what a browser draws, a file keeps, and the encoder is shown."""

import re

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rarememory.data.pen import rasterize

SIDE = 256
"""A drawing's numbers are whole, and below this."""
LONGEST = 100_000
"""Characters of a path; a patient scribble has some thousands."""
_STROKE = re.compile(r"M(\d{1,3} \d{1,3}(?:L\d{1,3} \d{1,3})*)")

# As Omniglot's characters are, whose median these are: of 28 pixels, the longer side of a character
# takes 18, and the pen is 1.4 wide.
EXTENT = 18.0
RADIUS = 0.72
# What is drawn smaller than an eighth of the paper stays small: a dot is no disc.
SMALLEST = SIDE / 8


def strokes(path: str) -> list[Float[np.ndarray, "points xy"]]:
    """The points of every stroke.

    Raises:
        ValueError: there is no stroke, or it is no drawing.

    Example:
        >>> [stroke.tolist() for stroke in strokes("M10 20L30 40M5 5")]
        [[[10.0, 20.0], [30.0, 40.0]], [[5.0, 5.0]]]
    """
    if not path:
        raise ValueError("there is nothing on the paper yet: draw a character")
    if len(path) > LONGEST:
        raise ValueError(
            f"that is a very long drawing, of {len(path):,} characters where {LONGEST:,} are the "
            "most: draw a simpler one"
        )
    found = [match[1] for match in _STROKE.finditer(path)]
    points = [np.array(re.findall(r"\d+", one), dtype=np.float64).reshape(-1, 2) for one in found]
    if path != "".join("M" + one for one in found) or max(p.max() for p in points) >= SIDE:
        raise ValueError(f"{path[:40]!r} is no drawing: it is M, x y, L, x y, from 0 to {SIDE - 1}")
    return points


def is_drawing(ref: object) -> bool:
    """Whether what a slot refers to is a drawing, and not, say, the path of a file."""
    try:
        return isinstance(ref, str) and bool(strokes(ref))
    except ValueError:
        return False


def ink(path: str) -> Float[Tensor, "1 28 28"]:
    """A drawing as the shipped encoder was trained to see it: centred, scaled, ink 1 on 0.

    The pen is as wide whatever the scale, for a drawing's size is chance. A pen that is a third
    wider or narrower halves the scores of the shipped encoder.

    Raises:
        ValueError: it is no drawing.
    """
    points = strokes(path)
    corners = np.concatenate(points)
    low, high = corners.min(axis=0), corners.max(axis=0)
    scale = EXTENT / max((high - low).max(), SMALLEST)
    places = [((stroke - (low + high) / 2) * scale + 13.5) for stroke in points]
    track = np.concatenate([_dense(stroke) for stroke in places])
    return torch.from_numpy(rasterize(track, RADIUS, 28)).unsqueeze(0) / 255


def _dense(stroke: Float[np.ndarray, "points xy"]) -> Float[np.ndarray, "places xy"]:
    """Places along a stroke, a quarter of a pixel apart."""
    steps = np.hypot(*np.diff(stroke, axis=0).T)
    along = np.concatenate([[0.0], steps.cumsum()])
    wanted = np.linspace(0, along[-1], int(along[-1] * 4) + 1)
    return np.stack([np.interp(wanted, along, stroke[:, axis]) for axis in (0, 1)], axis=1)
