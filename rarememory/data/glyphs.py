"""Drawn glyphs stand in for Omniglot where it is not at hand: invented characters in many hands.

A glyph is two to four smooth strokes through random points. A drawing of it moves every point a
little, then turns, slants, stretches and shifts the whole, and takes a pen of its own width.
"""

import numpy as np
import torch
from jaxtyping import Float

from rarememory.data.characters import Characters
from rarememory.data.pen import rasterize

POINTS = 4


def draw_glyphs(n_classes: int, n_drawings: int = 20, size: int = 28, seed: int = 0) -> Characters:
    """Invented characters, 255 on 0 like Omniglot's; the same seed gives the same bytes.

    A drawing depends on the seed and on its own two numbers, not on how many are asked for.
    ValueError for a number below 1 or a seed below 0.

    >>> draw_glyphs(3, n_drawings=2)
    Characters(3 classes, 2 drawings each, 28 x 28)
    """
    for name, number, least in (
        ("n_classes", n_classes, 1),
        ("n_drawings", n_drawings, 1),
        ("size", size, 1),
        ("seed", seed, 0),
    ):
        if number < least:
            raise ValueError(f"{name} is {number}: it must be {least} or more")
    curve = _curve(steps=max(size // 2, 4))
    images = np.empty((n_classes, n_drawings, size, size), np.uint8)
    for index in range(n_classes):
        glyph = _invent(_own_generator(seed, index))
        for drawing in range(n_drawings):
            hand = _own_generator(seed, index, drawing)
            path = _leaning((curve @ _shaken(glyph, hand)).reshape(-1, 2), hand)
            pen = max(hand.normal(0.8, 0.12), 0.4) * size / 28
            images[index, drawing] = rasterize((path * 0.78 + 1) * size / 2 - 0.5, pen, size)
    names = tuple(f"Glyphs/character{index + 1:04d}" for index in range(n_classes))
    return Characters(names, torch.from_numpy(images))


def _invent(rng: np.random.Generator) -> Float[np.ndarray, "strokes points xy"]:
    """A glyph in the box from -1 to 1: strokes that wander off, often from one drawn before."""
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


def _shaken(
    glyph: Float[np.ndarray, "strokes points xy"], hand: np.random.Generator
) -> Float[np.ndarray, "strokes points xy"]:
    """The glyph with each stroke set down a little off, and each of its points once more."""
    strokes = hand.normal(0, 0.05, (len(glyph), 1, 2))
    return glyph + strokes + hand.normal(0, 0.05, glyph.shape)


def _leaning(
    path: Float[np.ndarray, "places xy"], hand: np.random.Generator
) -> Float[np.ndarray, "places xy"]:
    """The path turned, slanted, stretched and shifted, as one writer would."""
    angle, slant = hand.normal(0, 0.1), hand.normal(0, 0.12)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.array([[1, slant], [0, 1]]) * hand.uniform(0.8, 1.05, 2)
    return path @ (turn @ stretch).T + hand.normal(0, 0.05, 2)


def _curve(steps: int) -> Float[np.ndarray, "places points"]:
    """The weights of the four points along the Catmull-Rom spline through them, `steps` a piece."""
    t = np.linspace(0, 1, steps)[:, None] ** np.arange(4)
    piece = t @ np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]) / 2
    # A point beyond either end continues the line: the spline needs a neighbour on both sides.
    extended = np.vstack([[2, -1, 0, 0], np.eye(POINTS), [0, 0, -1, 2]])
    return np.vstack([piece @ extended[first : first + 4] for first in range(POINTS - 1)])


def _own_generator(seed: int, *numbers: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=numbers))
