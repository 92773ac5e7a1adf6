"""`feature_type=transformers`: the library's own numbers, through our pipeline."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel

from extraction.encoder import Encoder
from extraction.extractor import FeatureExtractor
from extraction.zero_shot import TextPredictor
from models.load import ModelChoice, extractor, load
from tests.helpers.shared_data import ROOT
from tests.helpers.tiny_transformers import KINDS, processor_of, write_openai_tokenizer, write_transformers_model
from utils.errors import UserError

SAMPLE = ROOT / "sample"
PHOTOS, VIDEO = [SAMPLE / "cat.jpg", SAMPLE / "rocket.jpg"], SAMPLE / "v_GGSY1Qvo990.mp4"
TEXTS = ["a cat", "two dogs play on a beach", "the red umbrella"]
CPU = torch.device("cpu")


def ours(folder: Path, **options: Any) -> FeatureExtractor:
    return extractor("transformers", model_name=str(folder), device="cpu", preprocess="exact", **options)


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def theirs(folder: Path) -> tuple[Any, dict[str, Any], Any]:
    """Model, what its processor makes of the photos, and its tokens: as the model's page says it is done."""
    own: Any = AutoModel.from_pretrained(folder).eval()
    images = processor_of(folder, "pil")([Image.open(each) for each in PHOTOS])
    padded = {"padding": "max_length", "max_length": own.config.text_config.max_position_embeddings}
    texts = AutoTokenizer.from_pretrained(folder)(TEXTS, return_tensors="pt", **padded)
    return own, {key: torch.as_tensor(np.array(value)) for key, value in images.items()}, texts


def test_the_numbers_are_the_librarys_own(folder: Path) -> None:
    own, images, texts = theirs(folder)
    with torch.no_grad():
        vision, text = own.vision_model(*images.values()), own.get_text_features(**texts)
        logits = own(**images, **texts).logits_per_image.numpy()
        vectors = own.get_image_features(**images)
    vectors, text = (getattr(each, "pooler_output", each).numpy() for each in (vectors, text))  # older ones: tensors
    extract = ours(folder, features=["global", "grid"])
    found = [extract.extract_image(photo) for photo in PHOTOS]
    features = np.concatenate([each["transformers"] for each in found])
    np.testing.assert_allclose(features, vectors, atol=1e-4)
    np.testing.assert_allclose(extract.extract_texts(TEXTS)["transformers"], text, atol=1e-4)
    for each, states in zip(found, vision.last_hidden_state.numpy(), strict=True):
        number = each["grid"].shape[1]
        start = 0 if "naflex" in folder.name else len(states) - number  # what is left over: a class token, or padding
        np.testing.assert_allclose(each["grid"][0], states[start : start + number], atol=1e-4)
    loaded = load(ModelChoice(feature_type="transformers", model_name=str(folder), device="cpu"))
    predictor = TextPredictor.from_texts(Encoder(loaded.model, device=CPU), TEXTS)
    np.testing.assert_allclose(predictor.logits(features), logits, atol=1e-4)
    sigmoid = torch.tensor(logits).sigmoid() if own.config.model_type.startswith("sig") else None
    expected = torch.tensor(logits).softmax(dim=1) if sigmoid is None else sigmoid
    np.testing.assert_allclose(predictor.probabilities(predictor.logits(features)), expected, atol=1e-5)


def test_every_kind_of_input(folder: Path) -> None:
    video = ours(folder, features=["global", "grid"], extraction_total=3).extract(VIDEO)
    rows, number, width = video["grid"].shape
    assert (rows, width, video["transformers"].shape[0]) == (3, 32, 3)
    assert number == np.prod(video.get("grid_shape", [[4, 4]])[0])
    assert ours(folder).folder == f"transformers/{folder.name}"


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_naflex_in_other_precisions_stays_near(folders: dict[str, Path], precision: str) -> None:
    """The others are held to this by `test_contract`."""
    full, rough = (ours(folders["naflex"], precision=each, features=["global", "grid"]) for each in ("fp32", precision))
    for exact, half, key in (
        (full.extract_image(PHOTOS[0]), rough.extract_image(PHOTOS[0]), "transformers"),
        (full.extract_image(PHOTOS[1]), rough.extract_image(PHOTOS[1]), "grid"),
        (full.extract_texts(TEXTS), rough.extract_texts(TEXTS), "transformers"),
    ):
        one, other = (each[key].reshape(-1, 32) for each in (exact, half))
        assert other.dtype == np.float32
        cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
        assert cosines.min() > 0.98


def test_another_resolution(folders: dict[str, Path]) -> None:
    own, images, _ = theirs(folders["clip"])
    large = torch.nn.functional.interpolate(images["pixel_values"][:1], (48, 48), mode="nearest")
    visual = load(ModelChoice(feature_type="transformers", model_name=str(folders["clip"]), resolution=48)).model.visual
    with torch.no_grad():
        expected = own.vision_model(pixel_values=large, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
        found = visual.grid(visual.trunk(large))
    assert visual.map_shape == found.shape[1:] == (32, 6, 6)
    np.testing.assert_allclose(found.flatten(2).transpose(1, 2), expected, atol=1e-4)
    assert ours(folders["siglip"], resolution=48, features="grid").extract_image(PHOTOS[0])["grid"].shape[1] == 36


def test_a_text_that_is_too_long_is_not_cut_silently(folder: Path) -> None:
    cut = AutoTokenizer.from_pretrained(folder)("umbrella " * 30, truncation=True, max_length=24)["input_ids"]
    model = load(ModelChoice(feature_type="transformers", model_name=str(folder), device="cpu")).model
    assert model.tokenize(["umbrella " * 30], truncate=True)[0].tolist() == cut
    with pytest.raises(UserError, match=r"tokens, 24 is the most this model takes"):
        model.tokenize(["a cat", "umbrella " * 30])


def test_a_tokenizer_that_hides_padding_does_so(folders: dict[str, Path], tmp_path: Path) -> None:
    """SigLIP sees it: its features then depend on what the tokenizer's own configuration says."""
    hidden = ours(folders["siglip"]).extract_texts(TEXTS)["transformers"]  # its pad is its end: all ends are hidden
    folder = write_transformers_model(tmp_path / "seen", "siglip")
    text = (folder / "tokenizer_config.json").read_text()
    (folder / "tokenizer_config.json").write_text(text.replace('"attention_mask"', '"input_ids"'))
    seen = ours(folder).extract_texts(TEXTS)["transformers"]
    assert np.abs(seen - hidden).max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("naflex", {"resolution": 64}, "give max_patches instead"),
        ("clip", {"max_patches": 64}, "give resolution instead"),
        ("clip", {"resolution": 50}, r"expected a multiple of 8 \(the patch\): 48 or 56"),
        ("naflex", {"max_patches": 0}, "max_patches=0: expected a whole number"),
        ("siglip", {"resize": "patches"}, "resize=patches: this model takes pictures of one size"),
        ("siglip", {"convert_rgb": "after_resize"}, "makes pictures RGB first"),
        ("clip", {"activation": "gelu"}, "feature_type=transformers has no such option"),
    ],
)
def test_wrong_options(folders: dict[str, Path], kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ours(folders[kind], **options)


def test_a_folder_of_clip_gives_what_the_other_family_makes_of_it(tmp_path: Path) -> None:
    """OpenAI's vocabulary, the tokens of the library's own tokenizer, and two towers: ours and theirs."""
    write_openai_tokenizer(tmp_path / "clip")
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 1}
    vision, text = sizes | {"image_size": 32, "patch_size": 16}, sizes | {"vocab_size": 49408}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    square = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessor(**square).save_pretrained(tmp_path / "clip")
    options: dict[str, Any] = {"device": "cpu", "preprocess": "exact", "features": ["global", "grid"]}
    one, other = (extractor(each, model_name=str(tmp_path / "clip"), **options) for each in ("transformers", "clip"))
    texts = [*TEXTS, "Überraschung, isn't it? 12 🙂 naïve"]
    for mine, same in (
        (one.extract_image(PHOTOS[0]), other.extract_image(PHOTOS[0])),
        (one.extract_texts(texts), other.extract_texts(texts)),
    ):
        np.testing.assert_allclose(mine["transformers"], same["clip"], atol=1e-4)
        if "grid" in mine:
            np.testing.assert_allclose(mine["grid"], same["grid"], atol=1e-4)
