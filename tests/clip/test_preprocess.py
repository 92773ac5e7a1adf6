"""Sizes and offsets, and that the fast way stays near the exact one; bits of the exact way are in test_parity.py."""

import numpy as np
import pytest
import torch
from PIL import Image
from shared_data import ROOT

from models.clip.preprocess import MEAN, STD, Preprocess, crop_offset, normalize, resized_size


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
