"""SigLIP, PE-Core, MobileCLIP2 and the others, cut down: open_clip's own numbers, whichever way they are named.

The same models at full size: `tests/models/open_clip/test_full_size.py`.
"""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from extraction.encoder import Encoder
from extraction.precision import Precision
from extraction.preprocess import Preprocess
from extraction.towers import LoadedModel
from models.load import ModelChoice, extractor, load
from tests.helpers.open_clip_families import FAMILIES, register, write_family
from tests.helpers.shared_data import ROOT

PHOTO = ROOT / "sample" / "cat.jpg"
TEXTS = ["a cat", "Two dogs, on a beach.", "a"]
WEIGHTS = "open_clip_pytorch_model.bin"


@dataclass(frozen=True)
class Own:
    """What open_clip gives for a folder, by its own calls alone."""

    name: str
    folder: Path
    images: np.ndarray
    texts: np.ndarray
    probabilities: np.ndarray
    ours: LoadedModel


@pytest.fixture(scope="module", params=FAMILIES)
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Own:
    folder = write_family(request.param, tmp_path_factory.mktemp("families") / request.param)
    model: Any
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    pixels = transform(Image.open(PHOTO)).unsqueeze(0)  # pyright: ignore
    with torch.no_grad():
        images, texts = model.eval().encode_image(pixels), model.encode_text(tokens)
        logits = model.get_logits(pixels, tokens)[0]
        chances = logits.softmax(dim=1) if model.logit_bias is None else logits.sigmoid()
    ours = load(ModelChoice(feature_type="open_clip", model_name=str(folder), device="cpu"))
    return Own(request.param, folder, images.numpy(), texts.numpy(), chances.numpy()[0], ours)


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and bool(np.abs(found - expected).max() < 1e-5 * np.abs(expected).max())


def test_a_folder_gives_open_clips_own_numbers(own: Own) -> None:
    ours = extractor("open_clip", model_name=str(own.folder), device="cpu", preprocess="exact")
    assert near(ours.extract_image(PHOTO)["open_clip"], own.images)
    assert near(ours.extract_texts(TEXTS)["open_clip"], own.texts)
    assert ours.folder == f"open_clip/{own.name}"


def test_a_file_gives_them_too(own: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip itself would prepare its pictures as for OpenAI's weights, whatever the model."""
    name = register(own.name, monkeypatch)
    weights = tmp_path / "weights.bin"
    weights.hardlink_to(own.folder / WEIGHTS)
    tokenizer = {"tokenizer_path": str(own.folder)} if FAMILIES[own.name].tokenizer else {}
    ours = extractor(
        "open_clip", model_name=name, pretrained=str(weights), device="cpu", preprocess="exact", **tokenizer
    )
    assert near(ours.extract_image(PHOTO)["open_clip"], own.images)
    assert near(ours.extract_texts(TEXTS)["open_clip"], own.texts)
    assert ours.folder == f"open_clip/{name}_weights"


def test_predictions_are_the_models_own_probabilities(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    ours = extractor(
        "open_clip",
        **{"model_name": str(own.folder), "device": "cpu", "preprocess": "exact"},
        **{"show_pred": True, "pred_texts": TEXTS},
    )
    ours.extract_image(PHOTO)
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.count("|") == 2]
    shown = {label.strip(): float(chance) for _, chance, label in lines[1:]}
    assert shown == pytest.approx(dict(zip(TEXTS, own.probabilities.tolist(), strict=True)), abs=6e-4)
    if own.name.startswith("SigLIP"):
        assert own.probabilities.sum() < 0.9  # by softmax they would sum to 1


@pytest.mark.parametrize(("precision", "floor"), [("bf16", 0.99), ("fp16", 0.9999), ("int8", 0.98)])
def test_every_precision_is_near(own: Own, precision: Precision, floor: float) -> None:
    encoder = Encoder(deepcopy(own.ours.model), device=own.ours.device, precision=precision)
    visual = encoder.model.visual
    pixels = Preprocess.of(visual).pixels(Image.open(PHOTO)).unsqueeze(0)
    found = encoder.features(pixels, wanted=("global", "grid"))
    for rough, exact in ((found["global"], own.images), (encoder.texts(TEXTS), own.texts)):
        cosines = (rough * exact).sum(1) / np.linalg.norm(rough, axis=1) / np.linalg.norm(exact, axis=1)
        assert cosines.min() > floor
    assert visual.map_shape
    assert found["grid"].shape == (1, visual.map_shape[1] * visual.map_shape[2], visual.map_shape[0])
    assert np.isfinite(found["grid"]).all()
