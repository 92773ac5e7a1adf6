"""The numbers of openai/CLIP, OpenAI-CLIP-Feature and video_features that come with the repository.

The same as test_parity.py and test_grid_parity.py, with checkpoints a tenth of the size; see tests/golden/SOURCES.md.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models import clip
from models.clip import ExtractCLIP
from tests.helpers.golden import GOLDEN, golden_image, golden_numbers, unpack_checkpoint

TOLERANCE = 1e-4  # of an array's largest value
NUMBERS = golden_numbers("clip.npz")
GRIDS = golden_numbers("grid.npz")
RATES: dict[str, dict[str, int]] = {
    "native": {},
    "fps1": {"extraction_fps": 1},
    "fps5": {"extraction_fps": 5},
    "fps25": {"extraction_fps": 25},
    "total10": {"extraction_total": 10},
}


@pytest.fixture(scope="module", params=["vit", "rn"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("golden")


@pytest.fixture(scope="module")
def checkpoint(kind: str, folder: Path) -> Path:
    return unpack_checkpoint(kind, folder)


@pytest.fixture(scope="module")
def vit(folder: Path) -> Path:
    return unpack_checkpoint("vit", folder)


def assert_near(found: np.ndarray, wanted: np.ndarray) -> None:
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def tokens() -> torch.Tensor:
    return clip.tokenize(json.loads((GOLDEN / "texts.json").read_text(encoding="utf-8")), truncate=True)


def test_token_ids() -> None:
    assert np.array_equal(tokens().numpy(), NUMBERS["tokens"])


def test_features_logits_and_preprocessed_pixels(kind: str, checkpoint: Path) -> None:
    model, preprocess = clip.load(str(checkpoint), device="cpu")
    images = []
    for name, sha256 in zip(NUMBERS["image_names"], NUMBERS["preprocessed_sha256"], strict=True):
        with Image.open(golden_image(str(name))) as image:
            images.append(preprocess(image))
        assert hashlib.sha256(images[-1].numpy().astype("<f4").tobytes()).hexdigest() == sha256, name
    with torch.no_grad():
        per_image, per_text = model(torch.stack(images), tokens())
        assert_near(model.encode_image(torch.stack(images)).numpy(), NUMBERS[f"{kind}_image_features"])
        assert_near(model.encode_text(tokens()).numpy(), NUMBERS[f"{kind}_text_features"])
    assert_near(per_image.numpy(), NUMBERS[f"{kind}_logits_per_image"])
    assert_near(per_text.numpy(), NUMBERS[f"{kind}_logits_per_text"])


@pytest.mark.parametrize("image", ["cat.jpg", "la.png"])
@pytest.mark.parametrize("resolution", [224, 448])
def test_grids(kind: str, checkpoint: Path, resolution: int, image: str) -> None:
    at_448: dict[str, Any] = {"resolution": 448, "resize": "squash", "grid_pool": 2}
    extractor = ExtractCLIP(
        model_name=str(checkpoint),
        device="cpu",
        preprocess="exact",
        convert_rgb="before_resize",
        features=["global", "grid"],
        **at_448 if resolution == 448 else {},
    )
    found = extractor.extract_image(golden_image(image))
    assert_near(found["grid"][0], GRIDS[f"{kind}_{resolution}_{image}_grid"])
    assert_near(found["clip"], GRIDS[f"{kind}_{resolution}_{image}_global"])


@pytest.mark.parametrize("case", RATES)
def test_rows_and_times_of_a_video(case: str, vit: Path) -> None:
    found = ExtractCLIP(model_name=str(vit), device="cpu", preprocess="exact", **RATES[case]).extract(
        GOLDEN / "pan_photos.mp4"
    )
    rows = NUMBERS["native_features"]
    assert_near(found["clip"], rows if case == "native" else rows[NUMBERS[f"{case}_source_index"]])
    assert found["fps"] == pytest.approx(NUMBERS[f"{case}_fps"], abs=1e-12)
    if case == "native":
        np.testing.assert_allclose(found["timestamps_ms"], NUMBERS["native_pts_ms"], rtol=0, atol=1e-3)
    else:
        np.testing.assert_allclose(found["timestamps_ms"], NUMBERS[f"{case}_timestamps_ms"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(found["source_timestamps_ms"], NUMBERS[f"{case}_source_pts_ms"], rtol=0, atol=1e-3)


def test_neighbouring_frames_are_told_apart() -> None:
    """A row of the frame before or after the right one would be beyond the tolerance."""
    rows = NUMBERS["native_features"]
    assert np.abs(np.diff(rows, axis=0)).max(axis=1).min() > 10 * TOLERANCE * np.abs(rows).max()
