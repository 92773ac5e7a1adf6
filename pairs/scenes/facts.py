"""What can be in a drawn scene: groups of equal shapes, each in a place of its own that it fits into."""

import hashlib
import math
import random
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Literal

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart")
# Diameter in units of the picture's side. The gap between the two is wide: "large" is meant without comparison.
SIZES = {"small": (0.145, 0.18), "large": (0.30, 0.38)}
# Where a group may lie: centre and half extents, in units of the picture's side, y downwards.
PLACES = {
    "left": (0.25, 0.5, 0.24, 0.49),
    "right": (0.75, 0.5, 0.24, 0.49),
    "top": (0.5, 0.25, 0.49, 0.24),
    "bottom": (0.5, 0.75, 0.49, 0.24),
    "top left": (0.25, 0.25, 0.24, 0.24),
    "top right": (0.75, 0.25, 0.24, 0.24),
    "bottom left": (0.25, 0.75, 0.24, 0.24),
    "bottom right": (0.75, 0.75, 0.24, 0.24),
    "centre": (0.5, 0.5, 0.24, 0.24),
    "all over": (0.5, 0.5, 0.49, 0.49),  # spread out, three or more, and no other group beside them
}
# How the members of a group are arranged, in units of the group's extent (as on dice).
PATTERNS = {
    1: (((0, 0),),),
    2: (((-1, 0), (1, 0)), ((0, -1), (0, 1)), ((-1, -1), (1, 1)), ((-1, 1), (1, -1))),
    3: (
        ((-1, 0), (0, 0), (1, 0)),
        ((0, -1), (0, 0), (0, 1)),
        ((-1, 1), (0, -1), (1, 1)),
        ((-1, -1), (0, 1), (1, -1)),
    ),
    4: (((-1, -1), (1, -1), (-1, 1), (1, 1)), ((-1, 0), (0, -1), (1, 0), (0, 1))),
    5: (((-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1)), ((0, -1), (-1, -0.2), (1, -0.2), (-0.6, 1), (0.6, 1))),
}
SceneSplit = Literal["all", "train", "test", "seen_pairs", "new_pairs"]
Pattern = tuple[tuple[float, float], ...]


@dataclass(frozen=True, order=True)
class Group:
    """`count` equal shapes in one place. Its name is a part of `facts_id`, so that another would change the splits."""

    count: int  # 1..5
    size: str
    colour: str
    shape: str
    place: str


Facts = tuple[Group, ...]  # sorted, so that equal scenes compare equal


def draw_facts(rng: random.Random) -> Facts:
    """One to three groups in places that do not meet; no pair of colour and shape twice."""
    places = rng.choice(_layouts(rng.choices((1, 2, 3), (4, 4, 2))[0]))
    pairs = rng.sample(_PAIRS, len(places))
    groups = []
    for place, (colour, shape) in zip(places, pairs, strict=True):
        size, counts = rng.choice(_possible(place))
        groups.append(Group(rng.choice(counts), size, colour, shape, place))
    return tuple(sorted(groups))


def facts_id(facts: Facts) -> int:
    """0..2^63-1, the same for the same facts on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(facts).encode(), digest_size=8).digest(), "big") >> 1


def in_split(facts: Facts, split: SceneSplit) -> bool:
    """`train` and `test` part the combinations of facts; `seen_pairs` and `new_pairs` the pairs of colour and shape."""
    if split in ("seen_pairs", "new_pairs"):
        new = any(COLOURS.index(group.colour) == SHAPES.index(group.shape) for group in facts)
        return new == (split == "new_pairs")
    return split == "all" or (facts_id(facts) % 10 == 0) == (split == "test")


@lru_cache
def arrangements(place: str, size: str, count: int) -> list[Pattern]:
    """Patterns whose members do not touch, even at the largest diameter."""
    diameter = SIZES[size][1]
    scaled = [(pattern, offsets(pattern, place, diameter)) for pattern in PATTERNS[count]]
    return [pattern for pattern, points in scaled if least_distance(points) >= 1.05 * diameter]


def offsets(pattern: Pattern, place: str, diameter: float) -> Pattern:
    """From the centre of the place; members stay near each other unless they are to be `all over`."""
    reach = [half - diameter / 2 for half in PLACES[place][2:]]
    if place != "all over":
        reach = [min(each, 1.3 * diameter) for each in reach]
    return tuple((x * reach[0], y * reach[1]) for x, y in pattern)


def least_distance(points: Pattern) -> float:
    return min((math.dist(a, b) for a, b in combinations(points, 2)), default=1.0)


_PAIRS = [(colour, shape) for colour in COLOURS for shape in SHAPES]


@lru_cache
def _layouts(num_groups: int) -> list[tuple[str, ...]]:
    """Sets of places that do not overlap."""
    if num_groups == 1:
        return [(place,) for place in PLACES]
    return [
        places
        for places in combinations(PLACES, num_groups)
        if all(_apart(PLACES[a], PLACES[b]) for a, b in combinations(places, 2))
    ]


def _apart(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return abs(a[0] - b[0]) >= a[2] + b[2] or abs(a[1] - b[1]) >= a[3] + b[3]


@lru_cache
def _possible(place: str) -> list[tuple[str, list[int]]]:
    """Sizes, and for each the counts that fit into the place."""
    least = 3 if place == "all over" else 1
    fitting = [(size, [n for n in PATTERNS if n >= least and arrangements(place, size, n)]) for size in SIZES]
    return [(size, counts) for size, counts in fitting if counts]
