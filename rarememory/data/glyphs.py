"""Glyphs: invented characters that replace Omniglot where its files are missing.

A glyph is two to four smooth strokes through random points. A drawing of it moves every point a
little, then rotates, slants, stretches and shifts the whole, with a stroke width of its own.
"""

import numpy as np
import torch
from jaxtyping import Float

from rarememory.base.validation import check_count, check_not_negative
from rarememory.data.characters import Characters
from rarememory.data.pen import rasterize

POINTS = 4


def draw_glyphs(n_classes: int, n_drawings: int = 20, size: int = 28, seed: int = 0) -> Characters:
    """Invented characters, 255 on 0 like Omniglot's; the same seed gives the same bytes.

    A drawing depends on the seed and on its own two numbers, not on how many there are. A
    ValueError refuses a number below 1 or a seed below 0.

    >>> draw_glyphs(3, n_drawings=2)
    Characters(3 classes, 2 drawings each, 28 x 28)
    """
    for name, number in (("n_classes", n_classes), ("n_drawings", n_drawings), ("size", size)):
        check_count(name, number)
    check_not_negative("seed", seed)
    curve = _curve(steps=max(size // 2, 4))
    images = np.empty((n_classes, n_drawings, size, size), np.uint8)
    for index in range(n_classes):
        glyph = _random_glyph(_generator(seed, index))
        for drawing in range(n_drawings):
            rng = _generator(seed, index, drawing)
            path = _transformed((curve @ _perturbed(glyph, rng)).reshape(-1, 2), rng)
            radius = max(rng.normal(0.8, 0.12), 0.4) * size / 28
            images[index, drawing] = rasterize((path * 0.78 + 1) * size / 2 - 0.5, radius, size)
    names = tuple(f"Glyphs/character{index + 1:04d}" for index in range(n_classes))
    return Characters(names, torch.from_numpy(images))


def _random_glyph(rng: np.random.Generator) -> Float[np.ndarray, "strokes points xy"]:
    """A glyph in the box from -1 to 1; a stroke often begins at a point of an earlier one."""
    strokes: list[Float[np.ndarray, "points xy"]] = []
    for _ in range(rng.integers(2, 5)):
        start = rng.uniform(-0.7, 0.7, 2)
        if strokes and rng.random() < 0.7:
            start = strokes[rng.integers(len(strokes))][rng.integers(POINTS)]
        turns = rng.normal(0, 0.55) + rng.normal(0, 0.35, POINTS - 1)
        angles = rng.uniform(0, 2 * np.pi) + turns.cumsum()
        headings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        steps = headings * rng.uniform(0.35, 0.8, (POINTS - 1, 1))
        strokes.append(np.vstack([start, start + steps.cumsum(axis=0)]))
    glyph = np.stack(strokes)
    low, high = glyph.min(axis=(0, 1)), glyph.max(axis=(0, 1))
    glyph -= (low + high) / 2
    glyph /= (high - low).max() / 2
    return glyph


def _perturbed(
    glyph: Float[np.ndarray, "strokes points xy"], rng: np.random.Generator
) -> Float[np.ndarray, "strokes points xy"]:
    """The glyph with each stroke shifted a little, and each point too."""
    strokes = rng.normal(0, 0.05, (len(glyph), 1, 2))
    return glyph + strokes + rng.normal(0, 0.05, glyph.shape)


def _transformed(
    path: Float[np.ndarray, "places xy"], rng: np.random.Generator
) -> Float[np.ndarray, "places xy"]:
    """The path rotated, slanted, stretched and shifted at random."""
    angle, slant = rng.normal(0, 0.1), rng.normal(0, 0.12)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.array([[1, slant], [0, 1]]) * rng.uniform(0.8, 1.05, 2)
    return path @ (rotation @ stretch).T + rng.normal(0, 0.05, 2)


def _curve(steps: int) -> Float[np.ndarray, "places points"]:
    """The weights of the four points along the Catmull-Rom spline through them, `steps` a piece."""
    t = np.linspace(0, 1, steps)[:, None] ** np.arange(4)
    piece = t @ np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]) / 2
    # A point beyond either end continues the line: the spline needs a neighbour on both sides.
    extended = np.vstack([[2, -1, 0, 0], np.eye(POINTS), [0, 0, -1, 2]])
    return np.vstack([piece @ extended[first : first + 4] for first in range(POINTS - 1)])


def _generator(seed: int, *numbers: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=numbers))
