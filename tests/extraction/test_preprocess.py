"""Sizes and offsets, and that the fast way stays near the exact one; bits of the exact way are in test_parity.py."""

import numpy as np
import pytest
import torch
from PIL import Image

from extraction.preprocess import MEAN, STD, Preprocess, crop_offset, normalize, resized_size
from tests.helpers.shared_data import ROOT
from tests.helpers.tiny_clip import tiny_model

MODES = ["L", "RGB", "LA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "1", "P", "I;16"]


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((640, 480), (298, 224)),  # 298.67 truncated
        ((480, 640), (224, 298)),
        ((500, 500), (224, 224)),
        ((1, 1), (224, 224)),
        ((1200, 60), (4480, 224)),
        ((224, 225), (224, 225)),
    ],
)
def test_short_side_is_resized_and_the_long_one_truncated(size: tuple[int, int], resized: tuple[int, int]) -> None:
    assert resized_size(*size, 224) == resized


@pytest.mark.parametrize(("size", "offset"), [(224, 0), (225, 0), (227, 2), (229, 2), (298, 37)])
def test_crop_offset_rounds_half_to_even(size: int, offset: int) -> None:
    assert crop_offset(size, 224) == offset


def test_normalize_is_in_float32_per_channel() -> None:
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    expected = (pixels / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert torch.equal(normalize(pixels), expected)
    assert normalize(pixels).dtype == torch.float32


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "CMYK", "1", "P", "I;16"])
@pytest.mark.parametrize("resolution", [32, 224])
def test_images_of_any_mode_become_three_channels(mode: str, resolution: int) -> None:
    image = Preprocess(resolution)(Image.new(mode, (50, 40)))
    assert image.shape == (3, resolution, resolution)
    assert image.dtype == torch.float32


def test_exact_frames_are_images() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    preprocess = Preprocess(32, "exact")
    assert torch.equal(preprocess.frame(rgb), preprocess.pixels(Image.fromarray(rgb)))


@pytest.mark.parametrize("name", ["astronaut.jpg", "coffee.jpg", "rocket.jpg"])
@pytest.mark.parametrize("resolution", [32, 224, 600])
def test_fast_frames_are_two_levels_away_at_most(name: str, resolution: int) -> None:
    with Image.open(ROOT / "sample" / name) as image:
        rgb = np.array(image.convert("RGB"))
    exact, fast = Preprocess(resolution, "exact").frame(rgb), Preprocess(resolution, "fast").frame(rgb)
    assert (fast.dtype, fast.shape) == (torch.uint8, exact.shape)
    difference = (fast.int() - exact.int()).abs()
    assert int(difference.max()) <= 2
    assert float((difference > 0).float().mean()) < 0.03


def photo(mode: str) -> Image.Image:
    """A photo in that mode; where there is room for transparency, from none to all."""
    with Image.open(ROOT / "sample" / "coffee.jpg") as file:
        image = file.convert("RGB").reduce(4)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    image = image.convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


@pytest.mark.parametrize("order", ["after_resize", "before_resize"])
@pytest.mark.parametrize("mode", MODES)
def test_images_are_fast_only_where_the_order_does_not_matter(mode: str, order: str) -> None:
    exact = Preprocess(64, "exact", convert_rgb=order)  # pyright: ignore[reportArgumentType]
    fast = Preprocess(64, "fast", convert_rgb=order)  # pyright: ignore[reportArgumentType]
    image = photo(mode)
    assert image.mode == mode
    wanted, found = exact.image(image), fast.image(image)
    assert (found.dtype, found.shape) == (torch.uint8, (3, 64, 64))
    if mode in ("RGB", "L"):
        assert int((found.int() - wanted.int()).abs().max()) <= 2
        assert torch.equal(found, fast.frame(np.array(image.convert("RGB"))))
    else:
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("preprocess", ["exact", "fast"])
def test_the_order_changes_nothing_for_photos(mode: str, preprocess: str) -> None:
    image = photo(mode)
    first = Preprocess(64, preprocess, convert_rgb="before_resize").image(image)  # pyright: ignore[reportArgumentType]
    last = Preprocess(64, preprocess, convert_rgb="after_resize").image(image)  # pyright: ignore[reportArgumentType]
    assert torch.equal(first, last)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1"])
def test_the_order_matters_elsewhere(mode: str) -> None:
    image = photo(mode)
    before = Preprocess(64, "exact", convert_rgb="before_resize").image(image)
    after = Preprocess(64, "exact").image(image)
    assert torch.equal(before, Preprocess(64, "exact").image(image.convert("RGB")))
    assert int((before.int() - after.int()).abs().max()) > 20


def test_hidden_colours_show_only_if_converted_first() -> None:
    image = Image.new("RGBA", (40, 30), (255, 0, 255, 0))
    assert Preprocess(20, "fast").image(image).max() == 0
    before = Preprocess(20, "fast", convert_rgb="before_resize").image(image)
    assert before[:, 0, 0].tolist() == [255, 0, 255]


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_squashing_shows_the_edges(mode: str) -> None:
    rgb = np.zeros((40, 160, 3), np.uint8)
    rgb[:, :40], rgb[:, 120:] = 255, 255
    image = Image.fromarray(rgb)
    squashed = Preprocess(32, mode, "squash").image(image)  # pyright: ignore[reportArgumentType]
    assert squashed.shape == (3, 32, 32)
    assert [int(squashed[0, 16, x]) for x in (0, 16, 31)] == [255, 0, 255]
    assert Preprocess(32, mode).image(image).max() <= 40  # pyright: ignore[reportArgumentType]


def test_images_of_the_right_size_are_not_touched() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    for mode in ("exact", "fast"):
        for resize in ("crop", "squash"):
            found = Preprocess(32, mode, resize).image(Image.fromarray(rgb))
            assert np.array_equal(found.permute(1, 2, 0).numpy(), rgb)


def test_of_a_tower() -> None:
    visual = tiny_model().visual
    assert Preprocess.of(visual) == Preprocess(32)
    asked = Preprocess.of(visual, "fast", resize="squash", convert_rgb="before_resize")
    assert asked == Preprocess(32, "fast", "squash", convert_rgb="before_resize")


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_a_tower_may_ask_for_another_filter(resample: str, resize: str) -> None:
    """As PIL has it, both ways; the two filters differ far more than the two ways."""
    with Image.open(ROOT / "sample" / "coffee.jpg") as image:
        rgb = np.array(image.convert("RGB"))
    visual = tiny_model().visual
    visual.resample, visual.resize = resample, resize  # pyright: ignore
    exact, fast = (Preprocess.of(visual, mode).frame(rgb).int() for mode in ("exact", "fast"))  # pyright: ignore
    size = resized_size(rgb.shape[1], rgb.shape[0], 32, resize)  # pyright: ignore
    left, top = (crop_offset(side, 32) for side in size)
    filtered = Image.fromarray(rgb).resize(size, getattr(Image.Resampling, resample.upper()))
    expected = np.array(filtered.crop((left, top, left + 32, top + 32)))
    assert np.array_equal(exact.permute(1, 2, 0).numpy(), expected)
    assert (exact - fast).abs().max() <= 2
    other = Preprocess(32, "exact", resize, resample="bilinear" if resample == "bicubic" else "bicubic")  # pyright: ignore
    assert (other.frame(rgb).int() - exact).abs().max() > 4
    assert Preprocess.of(visual).settings()["resample"] == resample
