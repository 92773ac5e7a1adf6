"""Facts -> pixels: anti-aliased shapes on backgrounds that tell nothing of what stands on them."""

import math
import random
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from pairs.scenes.facts import PLACES, SIZES, Facts, Group, arrangements, least_distance, offsets

RGB = {
    "red": (215, 30, 35),
    "orange": (245, 135, 20),
    "yellow": (245, 225, 40),
    "green": (30, 150, 50),
    "blue": (30, 70, 215),
    "purple": (135, 40, 170),
    "white": (248, 248, 248),
    "black": (10, 10, 10),
}
COLOUR_JITTER = 18  # levels of 255, each channel
TURNS_DEGREES = (-10, -5, 0, 5, 10)  # no more: a square on its corner would be a diamond
# Outlines within the circle of radius 1, y downwards; circle, ring and heart are drawn by hand.
OUTLINES = {
    "square": [(-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)],
    "triangle": [(0, -1), (0.87, 0.5), (-0.87, 0.5)],
    "diamond": [(0, -1), (0.65, 0), (0, 1), (-0.65, 0)],
    "cross": [
        *[(-0.25, -0.95), (0.25, -0.95), (0.25, -0.25), (0.95, -0.25), (0.95, 0.25), (0.25, 0.25)],
        *[(0.25, 0.95), (-0.25, 0.95), (-0.25, 0.25), (-0.95, 0.25), (-0.95, -0.25), (-0.25, -0.25)],
    ],
    "star": [
        (math.sin(math.pi * k / 5) * (0.42 if k % 2 else 1), -math.cos(math.pi * k / 5) * (0.42 if k % 2 else 1))
        for k in range(10)
    ],
    "heart": [
        (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 17)
        for t in (2 * math.pi * k / 40 for k in range(40))
    ],
}
_SUPERSAMPLING = 4


def paint(facts: Facts, rng: random.Random, resolution: int) -> UInt8[np.ndarray, "n n 3"]:
    """The picture, uint8 RGB. Everything that the facts leave open (background, shades, exact places) is `rng`'s."""
    image = Image.fromarray(_background(rng, resolution))
    for group in facts:
        _paint_group(image, group, rng, resolution)
    return np.array(image)


def _paint_group(image: Image.Image, group: Group, rng: random.Random, resolution: int) -> None:
    diameter = rng.uniform(*SIZES[group.size])
    side_px = max(round(diameter * resolution), 3)
    colour = tuple(min(max(level + rng.randint(-COLOUR_JITTER, COLOUR_JITTER), 0), 255) for level in RGB[group.colour])
    for x, y in _centres(group, diameter, rng):
        mask = shape_mask(group.shape, side_px, rng.choice(TURNS_DEGREES))
        image.paste(colour, (round(x * resolution - side_px / 2), round(y * resolution - side_px / 2)), mask)


def _centres(group: Group, diameter: float, rng: random.Random) -> list[tuple[float, float]]:
    """In units of the picture's side: a pattern, shaken as far as members neither touch nor leave their place."""
    pattern = rng.choice(arrangements(group.place, group.size, group.count))
    points = offsets(pattern, group.place, diameter)
    slack = min((least_distance(points) - diameter) / 3, 0.04)
    x, y, half_width, half_height = PLACES[group.place]
    return [
        (
            x + _within(dx + rng.uniform(-slack, slack), half_width - diameter / 2),
            y + _within(dy + rng.uniform(-slack, slack), half_height - diameter / 2),
        )
        for dx, dy in points
    ]


def _within(offset: float, limit: float) -> float:
    return min(max(offset, -limit), limit)


@lru_cache(maxsize=4096)
def shape_mask(shape: str, side_px: int, turn_degrees: int) -> Image.Image:
    """Coverage 0..255 of each pixel (mode L): drawn larger, then averaged. Kept, as a scene needs up to 15 of them."""
    side = side_px * _SUPERSAMPLING
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    if shape in ("circle", "ring"):
        draw.ellipse((0, 0, side - 1, side - 1), fill=255)
        if shape == "ring":
            draw.ellipse((side * 0.25, side * 0.25, side * 0.75, side * 0.75), fill=0)
    else:
        cos, sin = math.cos(math.radians(turn_degrees)), math.sin(math.radians(turn_degrees))
        half = (side - 1) / 2
        draw.polygon(
            [(half + half * (x * cos - y * sin), half + half * (x * sin + y * cos)) for x, y in OUTLINES[shape]],
            fill=255,
        )
    return mask.reduce(_SUPERSAMPLING)


def _background(rng: random.Random, resolution: int) -> UInt8[np.ndarray, "n n 3"]:
    """Plain, a gradient or noise, in greyish tones that differ from all colours of shapes."""
    kind = rng.choice(("plain", "gradient", "noise"))
    first, second = _greyish(rng), _greyish(rng)
    picture = np.empty((resolution, resolution, 3), np.float32)
    picture[:] = first
    if kind == "gradient":
        angle, steps = rng.uniform(0, 2 * math.pi), np.linspace(-0.7, 0.7, resolution, dtype=np.float32)
        ramp = math.cos(angle) * steps + math.sin(angle) * steps[:, None]
        picture += (np.clip(ramp, -0.5, 0.5) + 0.5)[:, :, None] * (np.array(second, np.float32) - picture)
    elif kind == "noise":
        grain = np.frombuffer(rng.randbytes(resolution * resolution), np.uint8).reshape(resolution, resolution, 1)
        picture += (grain.astype(np.float32) - 127.5) * rng.uniform(0.05, 0.2)  # +- 6 to 25 levels
    return np.clip(picture, 0, 255).astype(np.uint8)


def _greyish(rng: random.Random) -> list[float]:
    level = rng.uniform(75, 185)
    return [level + rng.uniform(-15, 15) for _ in range(3)]
