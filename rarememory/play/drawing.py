"""Drawings as SVG paths: reading them, and rendering them for the encoder."""

import re

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rarememory.data.pen import rasterize

SIDE = 256
"""Coordinates are integers from 0 to SIDE - 1."""
LONGEST = 20_000
"""Most characters of a path; a long scribble has some thousands."""
FARTHEST = 20_000
"""Most units that a pen may go, near eighty times across the paper: that much is rendered fast."""
_STROKE = re.compile(r"M(\d{1,3} \d{1,3}(?:L\d{1,3} \d{1,3})*)")

# Medians of Omniglot at 28 x 28 pixels: the longer side of a character, and half the pen's width.
EXTENT = 18.0
RADIUS = 0.72
# A drawing smaller than this is not enlarged to EXTENT: a dot stays a dot.
SMALLEST = SIDE / 8


def strokes(path: str) -> list[Float[np.ndarray, "points xy"]]:
    """The points of every stroke of a path such as "M10 20L30 40M5 5".

    Raises:
        ValueError: the path is empty, too long, or not made of such strokes, or the pen goes too
            far.

    Example:
        >>> [stroke.tolist() for stroke in strokes("M10 20L30 40M5 5")]
        [[[10.0, 20.0], [30.0, 40.0]], [[5.0, 5.0]]]
    """
    if not path:
        raise ValueError("the drawing is empty: draw a character")
    if len(path) > LONGEST:
        raise ValueError(
            f"the drawing has {len(path):,} characters, and {LONGEST:,} are allowed: draw a "
            "simpler one"
        )
    found = [match[1] for match in _STROKE.finditer(path)]
    points = [np.array(re.findall(r"\d+", one), dtype=np.float64).reshape(-1, 2) for one in found]
    if path != "".join("M" + one for one in found) or max(p.max() for p in points) >= SIDE:
        raise ValueError(f"{path[:40]!r} is no drawing as M1 2L3 4, from 0 to {SIDE - 1}")
    far = sum(np.hypot(*np.diff(stroke, axis=0).T).sum() for stroke in points)
    if far > FARTHEST:
        raise ValueError(
            f"the pen goes {far:,.0f} units, and {FARTHEST:,} are allowed: draw a simpler one"
        )
    return points


def is_drawing(ref: object) -> bool:
    """Whether a ref is a drawing, and not, for example, the path of a file."""
    try:
        return isinstance(ref, str) and bool(strokes(ref))
    except ValueError:
        return False


def ink(path: str) -> Float[Tensor, "1 28 28"]:
    """Render a drawing as the shipped encoder was trained: centred, scaled, ink 1 on 0.

    The width of the pen does not depend on the scale: a pen that is a third wider or narrower
    halves the scores of the shipped encoder.

    Raises:
        ValueError: the path is no drawing.
    """
    points = strokes(path)
    corners = np.concatenate(points)
    low, high = corners.min(axis=0), corners.max(axis=0)
    scale = EXTENT / max((high - low).max(), SMALLEST)
    pixels = [((stroke - (low + high) / 2) * scale + 13.5) for stroke in points]
    track = np.concatenate([_resampled(stroke) for stroke in pixels])
    return torch.from_numpy(rasterize(track, RADIUS, 28)).unsqueeze(0) / 255


def _resampled(stroke: Float[np.ndarray, "points xy"]) -> Float[np.ndarray, "samples xy"]:
    """Points along a stroke, a quarter of a pixel apart."""
    steps = np.hypot(*np.diff(stroke, axis=0).T)
    lengths = np.concatenate([[0.0], steps.cumsum()])
    wanted = np.linspace(0, lengths[-1], int(lengths[-1] * 4) + 1)
    return np.stack([np.interp(wanted, lengths, stroke[:, axis]) for axis in (0, 1)], axis=1)
