"""Scenes: the same everywhere, complete and true captions, splits that keep apart what they promise."""

import random
from collections import Counter

import numpy as np
import pytest

from pairs.scenes.drawing import RGB, shape_mask
from pairs.scenes.facts import COLOURS, PLACES, SHAPES, SIZES, Group, arrangements, draw_facts, facts_id, in_split
from pairs.scenes.scenes import Scenes, draw_scene
from pairs.scenes.wording import NUM_CAPTIONS, PLACE_WORDS, RELATIONS, describe
from utils.errors import UserError

MANY = 400


def nearest_colours(image: np.ndarray) -> np.ndarray:
    """Index into COLOURS of every pixel, -1 where it is not near any (background, blended edges)."""
    distances = np.abs(image[:, :, None].astype(int) - np.array([RGB[name] for name in COLOURS])).max(axis=3)
    return np.where(distances.min(axis=2) <= 25, distances.argmin(axis=2), -1)


def blobs(mask: np.ndarray) -> list[int]:
    """Sizes in pixels of the parts of `mask` that hang together (4 neighbours), by flood fill."""
    left, sizes = {tuple(point) for point in np.argwhere(mask)}, []
    while left:
        stack, size = [left.pop()], 0
        while stack:
            y, x = stack.pop()
            size += 1
            near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & left
            left -= near
            stack.extend(near)
        sizes.append(size)
    return sizes


def test_same_seed_and_index_same_scene():
    first, second, other = Scenes(20, seed=3), Scenes(50, seed=3), Scenes(20, seed=4)
    for index in (0, 7, 19):
        (image, caption, number), (same_image, same_caption, same_number) = first[index], second[index]
        assert np.array_equal(image, same_image)
        assert (caption, number) == (same_caption, same_number)
    assert any(first[index][2] != other[index][2] for index in range(20))


def test_numbers_of_one_scene_stay_what_they_are():
    """Models are trained on these scenes: another machine or version has to draw the same."""
    facts = draw_facts(random.Random("0/0/0"))
    assert facts == (
        Group(3, "small", "red", "circle", "top right"),
        Group(4, "small", "blue", "star", "bottom"),
    )
    assert facts_id(facts) == 4190930635058900897
    assert (
        Scenes(1)[0][1]
        == "a picture of four small blue stars at the bottom and three small red circles in the top right corner"
    )


@pytest.mark.parametrize("resolution", [32, 64, 96, 224])
def test_shape_and_type(resolution):
    image, caption, number = Scenes(1, size_px=resolution)[0]
    assert (image.shape, image.dtype) == ((resolution, resolution, 3), np.uint8)
    assert isinstance(caption, str)
    assert 0 <= number < 2**63


def test_index_out_of_range_ends_iteration():
    scenes = Scenes(3)
    assert len([index for index, _ in enumerate(scenes)]) == 3  # pyright: ignore[reportArgumentType]
    with pytest.raises(IndexError):
        Scenes(3)[-1]


def test_every_kind_of_fact_occurs():
    groups = [group for k in range(MANY) for group in draw_facts(random.Random(k))]
    for key, options in (("colour", COLOURS), ("shape", SHAPES), ("place", PLACES), ("size", SIZES)):
        assert {getattr(group, key) for group in groups} == set(options)
    assert {group.count for group in groups} == {1, 2, 3, 4, 5}


def test_every_colour_named_is_at_the_place_named_as_often_as_said():
    """Counted in pixels: the colour's spots within the place, and none of it elsewhere."""
    for k in range(150):
        scene = draw_scene(k, resolution=128)
        colours = Counter(group.colour for group in scene.facts)
        found = nearest_colours(scene.image)
        for group in scene.facts:
            if colours[group.colour] > 1:
                continue
            x, y, half_width, half_height = (128 * value for value in PLACES[group.place])
            spots = found == COLOURS.index(group.colour)
            rows, columns = np.nonzero(spots)
            assert abs(rows.mean() + 0.5 - y) < half_height / 2, scene.facts
            assert abs(columns.mean() + 0.5 - x) < half_width / 2, scene.facts
            inside = (abs(rows + 0.5 - y) <= half_height + 1) & (abs(columns + 0.5 - x) <= half_width + 1)
            assert inside.mean() > 0.98, scene.facts
            large_spots = [size for size in blobs(spots) if size > 20]
            assert len(large_spots) == group.count, (scene.facts, large_spots)


def test_large_is_larger_than_small():
    def share(size: str) -> float:
        scenes = [draw_scene(k, facts=(Group(1, size, "red", "circle", "centre"),)) for k in range(20)]
        return float(np.mean([(nearest_colours(scene.image) == COLOURS.index("red")).mean() for scene in scenes]))

    assert share("large") > 3 * share("small")


def test_shapes_differ_from_each_other_even_when_small():
    masks = [np.array(shape_mask(shape, 10, 0), dtype=float) / 255 for shape in SHAPES]
    for i, first in enumerate(masks):
        for second in masks[:i]:
            assert np.abs(first - second).sum() > 10  # of 100 pixels


def test_background_does_not_tell_what_is_on_it():
    """The corner pixel of a scene with one shape in the middle is equally bright for all colours and shapes."""
    facts = [(Group(1, "small", colour, "circle", "centre"),) for colour in COLOURS]
    means = [np.mean([draw_scene(k, facts=each).image[0, 0] for k in range(60)]) for each in facts]
    assert np.ptp(means) == 0


def test_captions_name_everything():
    for k in range(MANY):
        facts = draw_facts(random.Random(k))
        captions = describe(facts, random.Random(k))
        assert len(set(captions)) == len(captions) == NUM_CAPTIONS
        for caption in captions:
            related = any(word in caption for pair in RELATIONS.values() for word in pair)
            for group in facts:
                assert f"{group.colour} {group.shape}" in caption
                assert related or any(words in caption for words in PLACE_WORDS[group.place])


def test_relations_are_true():
    left, right = Group(1, "large", "red", "star", "left"), Group(2, "small", "blue", "cross", "right")
    captions = {caption for k in range(40) for caption in describe((left, right), random.Random(k))}
    said = [caption for caption in captions if "to the left of" in caption or "to the right of" in caption]
    assert said
    for caption in said:
        star_first = caption.index("star") < caption.index("crosses")
        assert star_first == ("to the left of" in caption)


def test_other_facts_have_other_captions():
    facts_of: dict[str, set] = {}
    for k in range(3000):
        facts = draw_facts(random.Random(k))
        for caption in describe(facts, random.Random(k)):
            facts_of.setdefault(caption, set()).add(facts)
    assert all(len(each) == 1 for each in facts_of.values())


def test_equal_facts_share_their_id_and_no_others():
    scenes = [draw_facts(random.Random(k)) for k in range(5000)]
    assert len({facts_id(facts) for facts in scenes}) == len(set(scenes)) < 5000


def test_retrieval_set_is_well_posed():
    scenes = Scenes(200, seed=1, split="test", unique=True)
    captions = [caption for k in range(200) for caption in scenes.scene(k).captions]
    assert len({scenes[k][2] for k in range(200)}) == 200
    assert len(set(captions)) == 200 * NUM_CAPTIONS


def test_train_and_test_share_no_facts():
    train, test = Scenes(3000, split="train"), Scenes(500, seed=1, split="test")
    ids = {facts_id(train.scene(k).facts) for k in range(len(train))}
    assert ids.isdisjoint({facts_id(test.scene(k).facts) for k in range(len(test))})


def test_new_pairs_hold_out_a_colour_for_each_shape():
    def pairs(split):
        scenes = Scenes(MANY, split=split)
        return [{(g.colour, g.shape) for g in scenes.scene(k).facts} for k in range(MANY)]

    seen = set().union(*pairs("seen_pairs"))
    assert all(each - seen for each in pairs("new_pairs"))
    assert {colour for colour, _ in seen} == set(COLOURS)
    assert {shape for _, shape in seen} == set(SHAPES)


def test_splits_cover_everything_once():
    for k in range(MANY):
        facts = draw_facts(random.Random(k))
        assert in_split(facts, "train") != in_split(facts, "test")
        assert in_split(facts, "seen_pairs") != in_split(facts, "new_pairs")
        assert in_split(facts, "all")


def test_every_place_takes_up_to_five_small_ones():
    assert all(arrangements(place, "small", count) for place in PLACES for count in range(1, 6))


@pytest.mark.parametrize("wrong", [{"num": 0}, {"num": 1, "size_px": 0}])
def test_wrong_arguments(wrong):
    with pytest.raises(UserError):
        Scenes(**wrong)
