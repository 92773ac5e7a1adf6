"""Rewards by a model of another family than OpenAI's."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.load import choice_of, extractor
from tests.helpers.open_clip_families import write_family
from tests.helpers.shared_data import ROOT
from tests.helpers.tiny_transformers import write_transformers_model
from training.captioning.origin import check_embeddings
from training.captioning.reward_text import frozen_text
from training.captioning.rewards import ClipSReward, RewardImages
from utils.errors import UserError


def test_one_key_names_a_model_of_any_family() -> None:
    named = {name: choice_of(name) for name in ("ViT-B/32", "open_clip:ViT-B-16:dfn2b", "clip:tiny", "x:/y")}
    assert {name: (each.feature_type, each.model_name) for name, each in named.items()} == {
        "ViT-B/32": ("clip", "ViT-B/32"),
        "open_clip:ViT-B-16:dfn2b": ("open_clip", "ViT-B-16:dfn2b"),
        "clip:tiny": ("clip", "tiny"),
        "x:/y": ("clip", "x:/y"),
    }
    with pytest.raises(UserError, match="did you mean dfn2b"):
        frozen_text("open_clip:ViT-B-16:dfn3b", "")


def test_siglip_judges(tmp_path: Path) -> None:
    """By its own tokenizer and towers: equal to what its extractor gives for images and captions."""
    folder = write_family("SigLIP", tmp_path / "siglip")
    captions = ["a cat", "two dogs, on a beach " * 9]  # the second is cut, as all captions that are too long
    judge = extractor("open_clip", model_name=str(folder), device="cpu", text_overflow="truncate", normalize=True)
    photo = judge.extract_image(ROOT / "sample" / "cat.jpg")["open_clip"]
    texts = judge.extract_texts([f"x {caption}" for caption in captions])["open_clip"]
    name = f"open_clip:{folder}"
    reward = ClipSReward(model_name=name, prefix="x ")
    frozen_text(name, "x ").to(torch.device("cpu"))
    seen = RewardImages([[], []], torch.from_numpy(np.concatenate([photo, photo])), longest_reference=6)
    expected = torch.from_numpy(2.5 * np.maximum(photo @ texts.T, 0)[0])
    torch.testing.assert_close(reward(seen, captions), expected, atol=1e-5, rtol=1e-4)
    assert expected.max() > 0
    noted = judge.images.settings
    check_embeddings(name, noted)
    with pytest.raises(UserError, match=r"reward_model=open_clip:.*the embeddings are of siglip"):
        check_embeddings(name, noted | {"weights_sha256": "0" * 64})


def test_naflex_of_transformers_judges(tmp_path: Path) -> None:
    """As `feature_type=transformers` extracts for it, of pictures in their own shape."""
    folder = write_transformers_model(tmp_path / "naflex", "naflex")
    judge = extractor("transformers", model_name=str(folder), device="cpu", normalize=True)
    photo = judge.extract_image(ROOT / "sample" / "cat.jpg")["transformers"]
    texts = judge.extract_texts(["x a cat", "x two dogs"])["transformers"]
    reward = ClipSReward(model_name=f"transformers:{folder}", prefix="x ")
    seen = RewardImages([[], []], torch.from_numpy(np.concatenate([photo, photo])), longest_reference=6)
    expected = torch.from_numpy(2.5 * np.maximum(photo @ texts.T, 0)[0])
    torch.testing.assert_close(reward(seen, ["a cat", "two dogs"]), expected, atol=1e-5, rtol=1e-4)
    check_embeddings(f"transformers:{folder}", judge.images.settings)
