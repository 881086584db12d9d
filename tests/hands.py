"""Characters drawn by nobody: a few letters of our own, in a hand that is a little different each
time, and scribbles.
"""

import numpy as np

LETTERS = {
    "L": [[(70, 40), (70, 200), (180, 200)]],
    "T": [[(50, 60), (205, 60)], [(128, 60), (128, 210)]],
    "V": [[(50, 50), (128, 205), (206, 50)]],
    "O": [
        [
            (128 + 75 * np.cos(angle), 128 + 80 * np.sin(angle))
            for angle in np.linspace(-1.6, 4.7, 25)
        ]
    ],
    "Z": [[(60, 60), (200, 60), (60, 200), (200, 200)]],
    "sun": [
        [(128 + 40 * np.cos(angle), 128 + 40 * np.sin(angle)) for angle in np.linspace(0, 6.3, 20)],
        [(128, 20), (128, 66)],
        [(128, 190), (128, 236)],
        [(20, 128), (66, 128)],
        [(190, 128), (236, 128)],
    ],
}


def letter(name, seed=0):
    """The strokes of a letter, turned, stretched, moved and shaken by a hand of this seed."""
    hand = np.random.default_rng(seed)
    turn, (wide, high) = hand.normal(0, 0.06), hand.uniform(0.85, 1.05, 2)
    across = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    moved = hand.normal(0, 6, 2)
    return [
        ((np.array(stroke) - 128) * (wide, high) @ across.T + 128 + moved)
        + hand.normal(0, 2, (len(stroke), 2))
        for stroke in LETTERS[name]
    ]


def scribble(seed=0):
    """One stroke to and fro across the paper."""
    hand = np.random.default_rng(seed)
    corners = [(40 + 176 * (i % 2), 40 + 9 * i) for i in range(20)]
    return [np.array(corners) + hand.normal(0, 10, (20, 2))]


def as_path(strokes):
    """The strokes as a drawing."""
    whole = [np.clip(stroke.round(), 0, 255).astype(int) for stroke in strokes]
    return "".join("M" + "L".join(f"{x} {y}" for x, y in stroke) for stroke in whole)
