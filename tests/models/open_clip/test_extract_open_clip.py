"""`feature_type=open_clip`: the library's own numbers, through our pipeline."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from extraction.extractor import FeatureExtractor
from models import load
from tests.helpers.shared_data import ROOT
from tests.helpers.tiny_open_clip import RESNET, TIMM, VIT, write_open_clip_model
from utils.errors import UserError

SAMPLE = ROOT / "sample"
PHOTO, VIDEO = SAMPLE / "cat.jpg", SAMPLE / "v_GGSY1Qvo990.mp4"


@pytest.fixture(scope="module", params=[VIT, RESNET, TIMM], ids=["vit", "resnet", "timm"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_open_clip_model(tmp_path_factory.mktemp("open_clip") / "small-model", request.param)


def extractor(model: Path, **options: Any) -> FeatureExtractor:
    return load.extractor("open_clip", model_name=f"local-dir:{model}", device="cpu", preprocess="exact", **options)


def test_the_numbers_are_the_librarys_own(model: Path) -> None:
    own, _, transform = open_clip.create_model_and_transforms(f"local-dir:{model}")
    own.eval()
    ours = extractor(model)
    with torch.no_grad():
        expected = own.encode_image(transform(Image.open(PHOTO)).unsqueeze(0)).numpy()  # pyright: ignore
        texts = own.encode_text(open_clip.get_tokenizer(f"local-dir:{model}")(["a cat", "two red circles"])).numpy()
    assert np.abs(ours.extract_image(PHOTO)["open_clip"] - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.abs(ours.extract_texts(["a cat", "two red circles"])["open_clip"] - texts).max() < 1e-5


def test_every_kind_of_input_and_the_grid(model: Path) -> None:
    ours = extractor(model, features=["global", "grid"], extraction_total=3)
    video, image = ours.extract(VIDEO), ours.extract_image(PHOTO)
    assert video["open_clip"].shape == (3, 16)
    assert video["grid"].shape[:2] == (3, image["grid"].shape[1])
    assert image["grid"].ndim == 3
    assert video["timestamps_ms"].shape == (3,)
    assert ours.folder == "open_clip/small-model"


def test_a_grid_is_the_map_before_the_last_norm(tmp_path: Path) -> None:
    """Equal to that of our own tower with the same weights."""
    from models.clip import ExtractCLIP

    folder = write_open_clip_model(
        tmp_path / "vit", VIT | {"quick_gelu": True}, mean=[0.48145466, 0.4578275, 0.40821073]
    )
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": VIT | {"quick_gelu": True}}))
    same = ExtractCLIP(
        model_name=str(folder / "open_clip_pytorch_model.bin"), device="cpu", features=["global", "grid"]
    )
    ours = extractor(folder, features=["global", "grid"]).extract_image(PHOTO)
    other = same.extract_image(PHOTO)
    assert np.abs(ours["open_clip"] - other["clip"]).max() < 2e-2  # exact against fast preprocessing
    assert np.abs(ours["grid"] - other["grid"]).max() < 5e-2 * np.abs(other["grid"]).max()


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_other_precisions_stay_near(model: Path, precision: str) -> None:
    exact = extractor(model).extract_image(PHOTO)["open_clip"][0]
    half = extractor(model, precision=precision, features=["global", "grid"])
    assert half.extract_image(PHOTO)["grid"].dtype == np.float32
    rough = half.extract_image(PHOTO)["open_clip"][0]
    assert rough.dtype == np.float32
    assert exact @ rough / np.linalg.norm(exact) / np.linalg.norm(rough) > 0.99


def test_a_text_that_is_too_long_is_not_cut_silently(model: Path) -> None:
    with pytest.raises(UserError, match="82 tokens, 77 is the most"):
        extractor(model).extract_texts(["a cat", "cat " * 80])
    cut = extractor(model, text_overflow="truncate").extract_texts(["cat " * 80])
    assert cut["open_clip"].shape == (1, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_name": "ViT-B-23", "pretrained": "openai"}, "did you mean ViT-B-32"),
        (
            {"model_name": "ViT-B/32"},
            "expected a tag or the path of a checkpoint. Tags of ViT-B-32: openai",
        ),
        ({"model_name": "ViT-B-32", "pretrained": "laion2b_s34b"}, "did you mean laion2b_s34b_b79k"),
        ({"model_name": "ViT-B-32", "pretrained": "openai", "precision": "int4"}, "precision=int4"),
        ({"model_name": "local-dir:/nowhere"}, "open_clip cannot load it"),
        ({"model_name": "local-dir:/nowhere", "pretrained": "openai"}, "brings its own weights"),
        ({"model_name": "ViT-B-32", "pretrained": "openai", "activation": "relu"}, "activation=relu"),
        ({"model_name": "ViT-B-32", "pretrained": "openai", "interpolation": "bilinear"}, "interpolation=bilinear"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load.extractor("open_clip", device="cpu", **arguments)


def test_a_model_that_wants_other_pictures_is_refused(tmp_path: Path) -> None:
    folder = write_open_clip_model(tmp_path / "nearest", VIT, interpolation="nearest")
    with pytest.raises(UserError, match="not supported here"):
        extractor(folder)
