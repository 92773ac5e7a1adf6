"""Models of open_clip at their full size with random weights, against open_clip's own calls: minutes, so on request.

TORCH_ZOO_FULL_SIZE=1 python -m pytest -s -p no:xdist tests/models/open_clip/test_full_size.py
"""

import os
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from extraction.encoder import Encoder
from extraction.precision import Precision
from extraction.preprocess import Preprocess
from models.load import ModelChoice, load
from tests.helpers.shared_data import ROOT

PHOTO = ROOT / "sample" / "cat.jpg"
TEXTS = ["a cat", "two red circles on a white wall"]
FLOORS = {"fp32": 0.999999, "fp16": 0.9999, "bf16": 0.999, "int8": 0.99}
pytestmark = [
    pytest.mark.skipif(not os.environ.get("TORCH_ZOO_FULL_SIZE"), reason="takes minutes; TORCH_ZOO_FULL_SIZE=1"),
    pytest.mark.timeout(300),
]


def own_numbers(name: str, tag: str, weights: Path) -> tuple[np.ndarray, np.ndarray]:
    """open_clip's, of random weights that it writes to `weights`; pictures are prepared as its `tag` wants them."""
    torch.manual_seed(0)
    model: Any = open_clip.create_model(name, pretrained=None).eval()
    torch.save(model.state_dict(), weights)
    known = open_clip.get_pretrained_cfg(name, tag)
    wants = {key: known[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    transform: Any = image_transform_v2(PreprocessCfg(size=model.visual.image_size, **wants), is_train=False)
    with torch.no_grad():
        images = model.encode_image(transform(Image.open(PHOTO)).unsqueeze(0))
        return images.numpy(), model.encode_text(open_clip.get_tokenizer(name)(TEXTS)).numpy()


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("MobileCLIP2-S0", "dfndr2b"),
        ("PE-Core-T-16-384", "meta"),
        ("ViTamin-S", "datacomp1b"),
        ("EVA02-B-16", "merged2b_s8b_b131k"),
    ],
)
def test_full_size(name: str, tag: str, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    expected = own_numbers(name, tag, weights)
    choice = ModelChoice(feature_type="open_clip", model_name=name, device="cpu", family={"pretrained": str(weights)})
    model = load(choice).model
    weights.unlink()
    pixels = Preprocess.of(model.visual).pixels(Image.open(PHOTO)).unsqueeze(0)
    for precision in (each for each in get_args(Precision) if each != "auto"):
        encoder = Encoder(deepcopy(model), device=torch.device("cpu"), precision=precision)
        for found, own in zip((encoder.images(pixels), encoder.texts(TEXTS)), expected, strict=True):
            cosine = ((found * own).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(own, axis=1)).min()
            away = np.abs(found - own).max() / np.abs(own).max()
            print(f"{name} {precision}: cosine {cosine:.6f}, {away:.1e} of the largest number away")
            assert cosine > FLOORS[precision]
            assert precision != "fp32" or away < 1e-4
