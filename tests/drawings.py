"""Synthetic drawings: a few characters with random variation, and scribbles, as strokes."""

import numpy as np


def ellipse(width, height, start, end, points):
    return [
        (128 + width * np.cos(angle), 128 + height * np.sin(angle))
        for angle in np.linspace(start, end, points)
    ]


CHARACTERS = {
    "L": [[(70, 40), (70, 200), (180, 200)]],
    "T": [[(50, 60), (205, 60)], [(128, 60), (128, 210)]],
    "V": [[(50, 50), (128, 205), (206, 50)]],
    "O": [ellipse(75, 80, -1.6, 4.7, 25)],
    "Z": [[(60, 60), (200, 60), (60, 200), (200, 200)]],
    "sun": [
        ellipse(40, 40, 0, 6.3, 20),
        [(128, 20), (128, 66)],
        [(128, 190), (128, 236)],
        [(20, 128), (66, 128)],
        [(190, 128), (236, 128)],
    ],
}


def character(name, seed=0):
    """The strokes of a character, with a random rotation, scale, offset and noise per seed."""
    random = np.random.default_rng(seed)
    angle, scale = random.normal(0, 0.06), random.uniform(0.85, 1.05, 2)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    offset = random.normal(0, 6, 2)
    return [
        ((np.array(stroke) - 128) * scale @ rotation.T + 128 + offset)
        + random.normal(0, 2, (len(stroke), 2))
        for stroke in CHARACTERS[name]
    ]


def scribble(seed=0):
    """One zigzag stroke over the paper."""
    corners = [(40 + 176 * (i % 2), 40 + 9 * i) for i in range(20)]
    return [np.array(corners) + np.random.default_rng(seed).normal(0, 10, (20, 2))]


def as_path(strokes):
    """The strokes as an SVG path, as `rarememory.play.drawing` reads it."""
    whole = [np.clip(stroke.round(), 0, 255).astype(int) for stroke in strokes]
    return "".join("M" + "L".join(f"{x} {y}" for x, y in stroke) for stroke in whole)
