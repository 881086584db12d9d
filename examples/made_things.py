"""Things that no data set has, as functions of points: how far they are, about, and their colour.

A distance below 0 is inside. Things stand on z = 0 and are less than 2 high.
"""

import numpy as np


def ball(x, y, z, centre, radii):
    """About the distance to an ellipsoid."""
    place, radii = np.stack([x, y, z]) - np.c_[list(centre)], np.c_[list(radii)]
    length = np.linalg.norm(place / radii, axis=0)
    return length * (length - 1) / np.linalg.norm(place / radii**2, axis=0).clip(1e-9)


def cylinder(x, y, z, radius, low, high):
    """The distance to an upright cylinder."""
    return np.maximum(np.hypot(x, y) - radius, np.maximum(low - z, z - high))


def mug(x, y, z):
    """Open above, with a handle."""
    wall = np.maximum(cylinder(x, y, z, 0.62, 0, 1.5), -cylinder(x, y, z, 0.54, 0.12, 9))
    handle = np.hypot(np.hypot(x - 0.66, z - 0.75) - 0.4, y) - 0.09
    return np.minimum(wall, np.maximum(handle, 0.56 - np.hypot(x, y)))


def duck(x, y, z):
    """Body, head, beak and tail."""
    body, head = ((0, 0, 0.55), (0.85, 0.6, 0.55)), ((0.55, 0, 1.25), (0.42, 0.42, 0.42))
    beak, tail = ((1.0, 0, 1.18), (0.28, 0.2, 0.08)), ((-0.85, 0, 0.85), (0.3, 0.2, 0.25))
    return np.minimum.reduce([ball(x, y, z, *part) for part in (body, head, beak, tail)])


def cactus(x, y, z):
    """A stem with ribs and one arm, in a pot."""
    pot = cylinder(x, y, z, 0.45 + 0.15 * z, 0, 0.6)
    stem = ball(x, y, z, (0, 0, 1.15), (0.4, 0.4, 0.75)) - 0.03 * np.cos(9 * np.arctan2(y, x))
    return 0.8 * np.minimum.reduce([pot, stem, ball(x, y, z, (0.42, 0, 1.35), (0.18, 0.16, 0.38))])


def pawn(x, y, z):
    """A chess piece: a foot, a waist and a head."""
    waist = cylinder(x, y, z, 0.2 + 0.25 * (1 - z).clip(0) ** 2, 0.2, 1.2)
    foot = ball(x, y, z, (0, 0, 0.15), (0.6, 0.6, 0.15))
    return 0.7 * np.minimum.reduce([foot, waist, ball(x, y, z, (0, 0, 1.4), (0.36, 0.36, 0.36))])


def either(where, first, second):
    """One colour or the other."""
    return np.where(where[:, None], first, second)


def stripes(x, y, z):
    """Blue and cream."""
    return either(np.sin(14 * z) > 0.2, [0.12, 0.25, 0.6], [0.9, 0.88, 0.8])


def dots(x, y, z):
    """Red on cream."""
    dotted = np.sin(6 * np.arctan2(y, x)) * np.sin(10 * z) > 0.35
    return either(dotted, [0.75, 0.12, 0.12], [0.92, 0.9, 0.84])


def wood(x, y, z):
    """The duck's grain, beak and eyes."""
    grain = 0.5 + 0.5 * np.sin(24 * np.hypot(y, z - 0.2) + 3 * np.sin(3 * x))[:, None]
    colour = [0.75, 0.5, 0.25] - grain * [0.25, 0.22, 0.13]
    colour = either((x > 0.93) & (z > 0.9), [0.9, 0.5, 0.1], colour)
    return either((np.hypot(x - 0.8, z - 1.38) < 0.09) & (np.abs(y) > 0.15), [0.05] * 3, colour)


def plant(x, y, z):
    """A green stem in a brown pot."""
    ribs = 0.5 + 0.5 * np.cos(9 * np.arctan2(y, x))[:, None]
    return either(z < 0.6, [0.7, 0.35, 0.2], [0.15, 0.35, 0.15] + ribs * [0.15, 0.25, 0.1])


def marble(x, y, z):
    """White with grey veins."""
    vein = np.abs(np.sin(5 * x + 4 * z + 2 * np.sin(6 * y + 3 * z)))[:, None] ** 0.3
    return 0.35 + 0.55 * vein * [1.0, 0.98, 0.93]


THINGS = {
    "striped mug": (mug, stripes),
    "dotted mug": (mug, dots),
    "wooden duck": (duck, wood),
    "cactus": (cactus, plant),
    "pawn": (pawn, marble),
}
