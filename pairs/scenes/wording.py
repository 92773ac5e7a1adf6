"""Captions of drawn scenes: several wordings, each of them complete.

Every wording names count, size, colour, shape and place of all groups, so no caption fits a scene with other facts.
"To the left of" and "above" stand only where two groups fill the two halves: there they tell both places.
"""

import random

from pairs.scenes.facts import Facts, Group

NUMBERS = {1: ("a", "one"), 2: ("two",), 3: ("three",), 4: ("four",), 5: ("five",)}
SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
PLACE_WORDS = {
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "top left": ("in the top left corner", "at the top left"),
    "top right": ("in the top right corner", "at the top right"),
    "bottom left": ("in the bottom left corner", "at the bottom left"),
    "bottom right": ("in the bottom right corner", "at the bottom right"),
    "centre": ("in the middle", "in the centre"),
    "all over": ("all over the picture", "scattered around"),
}
RELATIONS = {
    ("left", "right"): ("to the left of", "to the right of"),
    ("top", "bottom"): ("above", "below"),
}
NUM_CAPTIONS = 5
_FRAMES = ("{}", "a picture of {}", "a drawing of {}", "{verb} {}", "this picture shows {}")


def describe(facts: Facts, rng: random.Random) -> list[str]:
    """`NUM_CAPTIONS` different captions in `rng`'s order and wording, lower case, without a full stop."""
    captions: dict[str, None] = {}  # in order, each once
    while len(captions) < NUM_CAPTIONS:
        captions[_caption(facts, rng)] = None
    return list(captions)


def _caption(facts: Facts, rng: random.Random) -> str:
    groups = rng.sample(facts, len(facts))
    relation = _relation(groups)
    if relation and rng.random() < 0.5:
        content = f"{_noun(groups[0], rng)} {relation} {_noun(groups[1], rng)}"
    else:
        content = _joined([f"{_noun(group, rng)} {rng.choice(PLACE_WORDS[group.place])}" for group in groups])
    verb = "there is" if groups[0].count == 1 else "there are"
    return rng.choice(_FRAMES).format(content, verb=verb)


def _relation(groups: list[Group]) -> str:
    """How the first group lies to the second, where that tells both places; else nothing."""
    places = tuple(group.place for group in groups)
    for (first, second), (forwards, backwards) in RELATIONS.items():
        if places == (first, second):
            return forwards
        if places == (second, first):
            return backwards
    return ""


def _noun(group: Group, rng: random.Random) -> str:
    number, size = rng.choice(NUMBERS[group.count]), rng.choice(SIZE_WORDS[group.size])
    return f"{number} {size} {group.colour} {group.shape if group.count == 1 else _plural(group.shape)}"


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _joined(parts: list[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
