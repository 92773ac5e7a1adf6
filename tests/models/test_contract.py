"""What every tower and every family has to keep: the contracts of `extraction.towers`."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from extraction.encoder import Encoder, grid_shape
from extraction.precision import HALF, Precision, weights_dtype
from extraction.preprocess import Preprocess, normalize
from extraction.towers import ImageTextModel
from models.clip.hub_towers import DistilBertTower, TimmTower
from models.clip.mixer import TextMixer, VisionMixer
from models.clip.model import CLIP
from models.load import ModelChoice, load
from tests.helpers.tiny_clip import TINY, TINY_RESNET, write_tiny_checkpoint
from tests.helpers.tiny_open_clip import RESNET, TIMM, VIT, write_open_clip_model
from tests.helpers.tiny_transformers import write_transformers_model
from tests.helpers.toy_family.family import ToyModel
from utils.errors import UserError

CPU = torch.device("cpu")
TEXTS = ["a cat", "two dogs play on a beach", "a", "the red umbrella"]


def distilbert() -> DistilBertTower:
    sizes: dict[str, Any] = {
        "width": 32,
        "layers": 2,
        "heads": 2,
        "hidden_width": 64,
        "positions": 64,
        "context_length": 30,
    }
    tower = DistilBertTower(**sizes, embed_dim=16)
    tower.learn_vocabulary([*TEXTS, "dog"])
    return tower


VISION: dict[str, Callable[[], Any]] = {
    "VisionTransformer": lambda: TINY.build().visual,
    "ModifiedResNet": lambda: TINY_RESNET.build().visual,
    "VisionMixer": lambda: VisionMixer(resolution=48, patch_size=16, width=32, layers=2, embed_dim=16),
    "TimmTower": lambda: TimmTower(model_name="resnet10t", resolution=32, embed_dim=16),
}
TEXT: dict[str, Callable[[], Any]] = {
    "TextTransformer": lambda: TINY.build().text,
    "TextMixer": lambda: TextMixer(context_length=20, width=16, layers=1, embed_dim=16, pad_mask=True),
    "DistilBertTower": distilbert,
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Family and `model_name` of what other files than ours hold."""
    folder = tmp_path_factory.mktemp("families")
    squashed = {"resize_mode": "squash", "interpolation": "bilinear"}
    sigmoid = write_open_clip_model(folder / "sigmoid", VIT | {"init_logit_bias": -10.0}, **squashed)
    return {
        "clip": ("clip", str(write_tiny_checkpoint(folder / "tiny.pt"))),
        "open_clip vit": ("open_clip", f"local-dir:{write_open_clip_model(folder / 'vit', VIT)}"),
        "open_clip resnet": ("open_clip", f"local-dir:{write_open_clip_model(folder / 'resnet', RESNET)}"),
        "open_clip timm": ("open_clip", f"local-dir:{write_open_clip_model(folder / 'timm', TIMM)}"),
        "open_clip sigmoid": (
            "open_clip",
            f"local-dir:{sigmoid}",
        ),
        "transformers clip": ("transformers", str(write_transformers_model(folder / "t_clip", "clip"))),
        "transformers siglip": ("transformers", str(write_transformers_model(folder / "t_siglip", "siglip"))),
    }


FAMILIES = (
    "clip",
    "open_clip vit",
    "open_clip resnet",
    "open_clip timm",
    "open_clip sigmoid",
    "transformers clip",
    "transformers siglip",
    "toy",
)
PAIRS = [f"{vision} {text}" for vision, text in product(VISION, TEXT)]
Make = Callable[[], ImageTextModel]


@pytest.fixture(params=[*PAIRS, *FAMILIES])
def make(request: pytest.FixtureRequest, checkpoints: dict[str, tuple[str, str]]) -> Make:
    """Makes the same model each time it is called."""

    def model() -> ImageTextModel:
        torch.manual_seed(0)
        if request.param in checkpoints:
            feature_type, name = checkpoints[request.param]
            return load(ModelChoice(feature_type=feature_type, model_name=name, device="cpu")).model
        if request.param == "toy":
            return ToyModel().eval()
        vision, text = request.param.split()
        clip = CLIP(VISION[vision](), TEXT[text]())
        clip.initialize()
        return clip.eval()

    return model


def pixels_for(model: ImageTextModel) -> torch.Tensor:
    n = model.visual.input_resolution
    return torch.randint(0, 256, (3, 3, n, n), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = (rows.reshape(len(rows), -1).astype(np.float64) for rows in (one, other))
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


def test_tokens_have_one_width_whatever_the_texts(make: Make) -> None:
    model = make()
    short, long = model.tokenize(["a"]), model.tokenize(TEXTS)
    assert short.shape[1] == long.shape[1] == model.tokenize([]).shape[1]
    assert not short.is_floating_point()
    assert torch.equal(long[2:3], short)  # no text depends on its neighbours
    with pytest.raises(UserError, match=r"tokens, \d+ is the most this model takes"):
        model.tokenize(["cat " * 300])
    assert model.tokenize(["cat " * 300], truncate=True).shape == short.shape


def test_a_text_beside_others_is_the_text_alone(make: Make) -> None:
    encoder = Encoder(make(), device=CPU, precision="fp32")
    together = encoder.texts(TEXTS)
    alone = np.concatenate([encoder.texts([text]) for text in TEXTS])
    assert together.shape == (len(TEXTS), encoder.model.visual.output_dim)
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=1e-4)
    assert len(np.unique(together.round(5), axis=0)) == len(TEXTS)


def test_tokens_of_another_model_are_answered_by_name(make: Make) -> None:
    model = make()
    width = model.tokenize(["a"]).shape[1]
    for foreign in (torch.full((1, width), 10**6), torch.ones(1, width + 1, dtype=torch.long)):
        with pytest.raises(UserError, match=r"use model\.tokenize"):
            model.encode_text(foreign)


def test_images_are_trunk_and_head(make: Make) -> None:
    model = make()
    visual = model.visual
    images = normalize(pixels_for(model), visual.mean, visual.std)
    with torch.no_grad():
        vectors = model.encode_image(images)
        assert vectors.shape == (3, visual.output_dim)
        assert torch.isfinite(vectors).all()
        if visual.map_shape is None and not isinstance(visual, TimmTower):
            return
        outputs = visual.trunk(images)
        torch.testing.assert_close(visual.head(outputs), vectors)
        if visual.map_shape is not None:
            assert visual.grid(outputs).shape == (3, *visual.map_shape)
        else:
            with pytest.raises(UserError, match="this image tower has no grid"):
                visual.grid(outputs)


def test_pictures_are_prepared_as_the_tower_says(make: Make) -> None:
    visual = make().visual
    prepared = Preprocess.of(visual)
    assert (prepared.resolution, prepared.mean, prepared.std) == (visual.input_resolution, visual.mean, visual.std)
    assert (prepared.resize, prepared.resample) == (visual.resize, visual.resample)


@pytest.mark.parametrize(("precision", "floor"), [("fp32", 0.99999), ("fp16", 0.999), ("bf16", 0.99), ("int8", 0.98)])
def test_every_precision_gives_finite_float32_near_the_full_one(make: Make, precision: Precision, floor: float) -> None:
    plain, model = make(), make()
    pixels, wanted = pixels_for(plain), ("global", "grid") if plain.visual.map_shape else ("global",)
    encoder = Encoder(model, device=CPU, precision=precision)
    found = encoder.features(pixels, wanted=wanted)
    with torch.no_grad():
        images = normalize(pixels, plain.visual.mean, plain.visual.std)
        expected = {"global": plain.encode_image(images)}
        if "grid" in wanted:
            expected["grid"] = plain.visual.grid(plain.visual.trunk(images)).flatten(2).transpose(1, 2)
        texts = plain.encode_text(plain.tokenize(TEXTS))
    assert model.visual.dtype == HALF.get(precision, torch.float32)
    for name in wanted:
        assert found[name].dtype == np.float32
        assert np.isfinite(found[name]).all()
        assert cosines(found[name], expected[name].numpy()).min() > floor
    assert cosines(encoder.texts(TEXTS), texts.numpy()).min() > floor
    if "grid" in wanted:
        assert found["grid"].shape == (3, *grid_shape(model.visual))
        np.testing.assert_allclose(found["global"], encoder.images(pixels), atol=1e-6)


@pytest.mark.parametrize("tower", TEXT)
def test_text_towers_are_pooled_and_projected(tower: str) -> None:
    torch.manual_seed(0)
    text = TEXT[tower]().eval()
    text.initialize()
    tokens = text.tokenize(TEXTS)
    with torch.no_grad():
        pooled = text.pooled(tokens)
        assert pooled.shape == (len(TEXTS), text.pooled_dim)
        torch.testing.assert_close(text.project(pooled), text(tokens))
    assert (tokens.shape[1], text.dtype) == (text.context_length, torch.float32)
    assert weights_dtype(text) == torch.float32
