"""Pictures are those of the processor in the model's folder: `exact` its PIL way, `fast` its way with torchvision."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches

from extraction.preprocess import normalize, preparation_for
from models.load import ModelChoice, load
from models.transformers.pictures import patch_grid
from tests.helpers.shared_data import ROOT
from tests.helpers.tiny_transformers import processor_of, write_transformers_model
from utils.errors import UserError

PHOTO = ROOT / "sample" / "cat.jpg"


def picture(mode: str) -> Image.Image:
    photo = Image.open(PHOTO).resize((77, 51))
    if mode == "RGBA":
        photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    return photo.convert(mode)


@cache
def visual_of(folder: Path) -> Any:
    return load(ModelChoice(feature_type="transformers", model_name=str(folder), device="cpu")).model.visual


@pytest.mark.parametrize("kind", ["clip", "siglip", "naflex"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_as_the_processor(folders: dict[str, Path], kind: str, mode: str) -> None:
    if mode == "RGBA":
        pytest.importorskip("transformers", minversion="5.23")  # before it transparency became whatever lay below
    visual, image = visual_of(folders[kind]), picture(mode)
    for way, backend, most in (("exact", "pil", 1e-6), ("fast", "torchvision", 1e-6)):
        own = processor_of(folders[kind], backend)(image, return_tensors="pt")
        pixels = preparation_for(visual, way).image(image)  # pyright: ignore[reportArgumentType]
        found = normalize(pixels.unsqueeze(0), visual.mean, visual.std)[0]
        if kind == "naflex":
            number = int(own["pixel_attention_mask"].sum())
            assert tuple(own["spatial_shapes"][0] * 8) == pixels.shape[1:]
            np.testing.assert_allclose(visual._patches(found)[:number], own["pixel_values"][0, :number], atol=most)
        else:
            np.testing.assert_allclose(found, own["pixel_values"][0], atol=most)


@pytest.mark.parametrize("kind", ["clip", "naflex"])
def test_a_frame_is_an_image(folders: dict[str, Path], kind: str) -> None:
    visual, image = visual_of(folders[kind]), picture("RGB")
    exact, fast = (preparation_for(visual, mode) for mode in ("exact", "fast"))
    assert (exact.frame(np.array(image)) == exact.image(image)).all()
    assert (fast.frame(np.array(image)) == fast.image(image)).all()
    apart = (exact.image(image).int() - fast.image(image).int()).abs()
    assert apart.max() <= 2


def test_a_patch_grid_is_the_librarys() -> None:
    draw = np.random.default_rng(0)
    sizes = [*draw.integers(1, 3000, (60, 2)).tolist(), [1, 5000], [16, 16], [4000, 3], [256, 256]]
    for width, height in sizes:
        for patch, most in ((16, 256), (14, 729), (8, 1)):
            expected = get_image_size_for_max_num_patches(height, width, patch, most)
            rows, columns = patch_grid(width, height, patch, most)
            assert (rows * patch, columns * patch) == expected
            assert rows * columns <= most


def test_a_short_side_that_is_cut(tmp_path: Path) -> None:
    folder = write_transformers_model(tmp_path / "cut", size={"shortest_edge": 41}, resample=2)
    visual, image = visual_of(folder), picture("RGB")
    own = processor_of(folder, "pil")(image, return_tensors="pt")["pixel_values"][0]
    exact = preparation_for(visual)
    found = normalize(exact.image(image).unsqueeze(0), visual.mean, visual.std)[0]
    np.testing.assert_allclose(found, own, atol=1e-6)
    assert (exact.settings()["short_px"], exact.settings()["resample"]) == (41, "bilinear")


@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_naflex_takes_squares(folders: dict[str, Path], resize: Any) -> None:
    assert preparation_for(visual_of(folders["naflex"]), resize=resize).image(picture("L")).shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resample": 0}, "bilinear or bicubic resampling"),
        ({"do_resize": False}, "do_resize"),
        ({"rescale_factor": 1.0}, "rescale_factor=1/255"),
        ({"do_center_crop": False}, "a square `size`"),
        ({"size": {"shortest_edge": 20}}, "a square `size`"),
        ({"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}, "give resolution="),
    ],
)
def test_a_processor_that_does_something_else_is_refused(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        visual_of(write_transformers_model(tmp_path / "other", **options))
