"""Photos of things that no data set has: textured and lit, in any pose, on photographed ground.

    python -m examples.make_photos    # writes made/<thing>/<number>.png, 18 of each

Rays go on by the distance to the thing until they meet it; all else is ground.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from examples.made_things import THINGS

SIZE = 160
TINTS = {"brick": [1.1, 0.8, 0.7], "grass": [0.8, 1.0, 0.5], "gravel": [1.0, 0.97, 0.9]}


def photo(thing, rng):
    """A picture of one thing, by its name, at a random place, in a random pose and light."""
    form, colours = THINGS[thing]
    turn, tilt, zoom = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 0.95), rng.uniform(1.3, 1.9)
    ray = -np.array([np.cos(tilt) * np.cos(turn), np.cos(tilt) * np.sin(turn), np.sin(tilt)])
    right = np.array([-np.sin(turn), np.cos(turn), 0.0])
    steps, aim = np.linspace(-zoom, zoom, SIZE), rng.uniform(-0.35, 0.35, 2)
    across, along = (part.reshape(-1, 1) for part in np.meshgrid(steps + aim[0], steps + aim[1]))
    start = across * right + along * np.cross(ray, right) + [0, 0, 0.8] - 6 * ray
    points, at_thing = march(form, start, ray)
    ground = start - start[:, 2:] / ray[2] * ray
    colour, normal = ground_colours(ground, rng), np.tile([0.0, 0.0, 1.0], (len(ground), 1))
    colour[at_thing] = colours(*points[at_thing].T)
    normal[at_thing] = normals(form, points[at_thing])
    points = np.where(at_thing[:, None], points, ground)
    light = unit(np.array([*rng.uniform(-1, 1, 2), rng.uniform(0.6, 1.3)]))
    _, in_shade = march(form, points + 0.04 * normal, light)
    lit = (normal @ light).clip(0, 1) * np.where(in_shade, 0.2, 1)
    shine = 0.5 * (normal @ unit(light - ray)).clip(0, 1) ** 40 * at_thing * ~in_shade
    colour = colour * (0.35 + 0.75 * lit[:, None]) * rng.uniform(0.85, 1.15, 3)
    colour = colour * rng.uniform(0.8, 1.25) + shine[:, None] + rng.normal(0, 0.02, colour.shape)
    pixels = (255 * colour.clip(0, 1)).astype(np.uint8)
    return Image.fromarray(pixels.reshape(SIZE, SIZE, 3))


def march(form, start, ray):
    """Where parallel rays end, and which of them at the thing."""
    points, hit = start.copy(), np.zeros(len(start), dtype=bool)
    middle = start - [0, 0, 0.9]
    beside = np.linalg.norm(middle - (middle @ ray)[:, None] * ray, axis=1)
    going = np.flatnonzero(beside < 1.6)
    for _ in range(60):
        gap = form(*points[going].T)
        points[going] += gap[:, None] * ray
        hit[going[gap < 0.005]] = True
        height = points[going, 2]
        going = going[(gap >= 0.005) & (height > -0.1) & (height < 6)]
    return points, hit


def normals(form, points):
    """The direction in which the distance grows."""
    sides = 1e-3 * np.eye(3)
    slopes = [form(*(points + side).T) - form(*(points - side).T) for side in sides]
    return unit(np.stack(slopes, 1))


def unit(vectors):
    """At length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-9)


def ground_colours(points, rng):
    """A grey photo of brick, grass or gravel, turned, tinted and repeated."""
    name, turn, scale = rng.choice(list(TINTS)), rng.uniform(0, 2 * np.pi), rng.uniform(90, 150)
    along = [[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0]]
    rows, columns = (scale * points @ np.transpose(along)).astype(int).T % 512
    tint = TINTS[name] * rng.uniform(0.85, 1.05, 3)
    return getattr(data, name)()[rows, columns][:, None] / 255 * tint


if __name__ == "__main__":
    for thing in THINGS:
        folder, rng = Path("made") / thing, np.random.default_rng(0)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(18):
            photo(thing, rng).save(folder / f"{number}.png")
