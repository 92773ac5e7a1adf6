"""Where stored features come from: told, noted, and held against each other."""

from pathlib import Path

import pytest

from models.load import ModelChoice, load
from tests.helpers.tiny_transformers import write_transformers_model
from tests.helpers.toy_captions import FEATURES
from training.captioning.origin import check_embeddings, described_grids
from utils.errors import UserError


def sha256_of(model_name: str) -> str:
    return described_grids({"model_name": model_name}, {})["weights_sha256"]


def test_features_are_told_by_the_hash_of_their_weights():
    assert sha256_of("RN50").startswith("afeb0e10f9e5a86d")
    assert len(sha256_of("tiny")) == 64
    assert described_grids(FEATURES, {}) == FEATURES


def test_stored_grids_say_themselves_where_they_come_from():
    noted = {"model_name": "RN50", "weights_sha256": "0" * 64, "resolution_px": 64, "resize": "crop"}
    noted |= {"grid": {"pool": 2}, "convert_rgb": "after_resize"}
    assert described_grids(FEATURES, {}) == FEATURES
    assert described_grids(FEATURES, noted) == FEATURES | {"resize": "crop", "grid_pool": 2}
    for other in ({"resolution_px": 448}, {"weights_sha256": "1" * 64}):
        with pytest.raises(UserError, match="grid_model=tiny grid_resolution=64: the grids are those of RN50"):
            described_grids(FEATURES, noted | other)


def test_embeddings_of_another_model_are_refused():
    check_embeddings("tiny", {})
    check_embeddings("tiny", {"weights_sha256": sha256_of("tiny")})
    with pytest.raises(UserError, match="reward_model=tiny: the embeddings are of ViT-B/32"):
        check_embeddings("tiny", {"weights_sha256": "0" * 64, "model_name": "ViT-B/32"})


def test_embeddings_of_another_family(tmp_path: Path):
    name = str(write_transformers_model(tmp_path / "clip", "clip"))
    noted = load(ModelChoice(feature_type="transformers", model_name=name, device="cpu")).settings
    check_embeddings(name, noted, feature_type="transformers")
    with pytest.raises(UserError, match="the embeddings are of clip"):
        check_embeddings(name, dict(noted) | {"weights_sha256": "0" * 64}, feature_type="transformers")
