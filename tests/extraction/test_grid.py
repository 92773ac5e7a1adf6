"""Grid features: which numbers, in which order, from one pass; and the presets. Parity is in test_grid_parity.py."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import nn

from extraction.encoder import Encoder, grid_shape
from extraction.extractor import check_preset, preset_folder
from extraction.precision import Precision
from extraction.preprocess import normalize
from models.clip.description import WithoutInitialWeights
from models.clip.hub_towers import TimmTower
from models.clip.mixer import VisionMixer
from models.clip.model import CLIP
from tests.helpers.architectures import ARCHITECTURES
from tests.helpers.configs import composed
from tests.helpers.shared_data import ROOT
from tests.helpers.tiny_clip import TINY, TINY_RESNET, tiny_model
from utils.errors import UserError

CPU = torch.device("cpu")
PRESETS = ROOT / "configs" / "extract" / "preset"
PRESET_FILES = sorted(PRESETS.rglob("*.yaml"))
BOTH = ("global", "grid")


def mixer() -> CLIP:
    torch.manual_seed(0)
    visual = VisionMixer(resolution=48, patch_size=16, width=64, layers=1, embed_dim=16)
    return CLIP(visual, tiny_model().text).eval()


def timm_model() -> CLIP:
    return CLIP(TimmTower(model_name="resnet10t", resolution=64, embed_dim=16), tiny_model().text).eval()


def vit() -> CLIP:
    model = tiny_model(architecture=TINY)
    model.visual.at_resolution(80)  # pyright: ignore[reportCallIssue]
    return model


def resnet() -> CLIP:
    return tiny_model(architecture=TINY_RESNET)


def random_pixels(model: CLIP, number: int = 3) -> torch.Tensor:
    n = model.visual.input_resolution
    return torch.randint(0, 256, (number, 3, n, n), dtype=torch.uint8)  # pyright: ignore


@pytest.fixture(params=[vit, resnet, mixer])
def model(request: pytest.FixtureRequest) -> CLIP:
    return request.param()


def test_shapes_are_those_of_the_arithmetic(model: CLIP) -> None:
    features = Encoder(model, device=CPU).features(random_pixels(model), wanted=BOTH)
    assert {name: (values.shape, values.dtype) for name, values in features.items()} == {
        "global": ((3, 16), np.float32),
        "grid": ((3, *grid_shape(model.visual)), np.float32),
    }


@pytest.mark.parametrize("build", [vit, mixer])
def test_a_patch_is_a_row_in_reading_order_before_the_last_norm(build: Callable[[], CLIP]) -> None:
    model = build()
    pixels = random_pixels(model)
    with torch.no_grad():
        tokens = model.visual.trunk(normalize(pixels))  # pyright: ignore[reportCallIssue]
        grid = model.visual.grid(tokens)  # pyright: ignore[reportCallIssue]
    side = grid.shape[2]
    for k in range(side * side):
        assert torch.equal(grid[:, :, k // side, k % side], tokens[:, 1 + k])


def test_a_patch_shows_in_its_own_row() -> None:
    """Without layers a token depends on its own pixels only."""
    model = vit()
    model.visual.transformer.resblocks = nn.Sequential()  # pyright: ignore
    encoder, grey = Encoder(model, device=CPU), torch.full((1, 3, 80, 80), 128, dtype=torch.uint8)
    changed = grey.clone()
    changed[:, :, 16:32, 64:80] = 255  # row 1, column 4 of 5 x 5
    before, after = (encoder.features(pixels, wanted=("grid",))["grid"][0] for pixels in (grey, changed))
    assert np.flatnonzero((before != after).any(axis=1)).tolist() == [9]


def test_the_grid_of_a_resnet_is_the_map_of_its_last_layer() -> None:
    model, seen = resnet(), []
    model.visual.layer4.register_forward_hook(lambda *call: seen.append(call[-1]))  # pyright: ignore
    grid = Encoder(model, device=CPU).features(random_pixels(model), wanted=("grid",))["grid"]
    assert np.array_equal(grid, seen[0].permute(0, 2, 3, 1).reshape(3, -1, grid.shape[2]).numpy())


@pytest.mark.parametrize(("wanted", "heads"), [(("grid",), 0), (("global", "grid"), 1), (("global",), 1)])
def test_one_pass_and_no_head_for_the_grid_alone(
    model: CLIP, wanted: tuple[str, ...], heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"trunk": 0, "head": 0}

    def counted(name: str) -> Callable[[Any], Any]:
        method = getattr(model.visual, name)

        def call(x: torch.Tensor) -> torch.Tensor:
            calls[name] += 1
            return method(x)

        return call

    for name in calls:
        monkeypatch.setattr(model.visual, name, counted(name))
    features = Encoder(model, device=CPU).features(random_pixels(model), wanted=wanted)
    assert set(features) == set(wanted)
    assert calls == {"trunk": 1, "head": heads}


def test_global_features_are_the_same_beside_the_grid(model: CLIP) -> None:
    encoder, pixels = Encoder(model, device=CPU), random_pixels(model)
    assert np.array_equal(encoder.features(pixels, wanted=BOTH)["global"], encoder.images(pixels))


@pytest.mark.parametrize("pool", [1, 2, 3, 5])
def test_pooling_averages_windows_and_leaves_out_the_rest(pool: int) -> None:
    model = vit()  # 5 x 5 patches
    encoder, pixels = Encoder(model, device=CPU), random_pixels(model)
    rows = encoder.features(pixels, wanted=("grid",))["grid"].reshape(3, 5, 5, -1)
    side = 5 // pool
    expected = np.stack(
        [
            rows[:, i * pool : (i + 1) * pool, j * pool : (j + 1) * pool].mean(axis=(1, 2))
            for i in range(side)
            for j in range(side)
        ],
        axis=1,
    )
    pooled = encoder.features(pixels, wanted=("grid",), grid_pool=pool)["grid"]
    assert pooled.shape == (3, *grid_shape(model.visual, pool))
    np.testing.assert_allclose(pooled, expected, atol=1e-5)
    assert pooled.flags.c_contiguous


def test_wrong_wishes() -> None:
    model = vit()
    encoder, pixels = Encoder(model, device=CPU), random_pixels(model)
    with pytest.raises(UserError, match="grid_pool=6: the grid is 5 x 5 patches; expected 5 at most"):
        encoder.features(pixels, wanted=("grid",), grid_pool=6)
    with pytest.raises(UserError, match="features=gird: did you mean grid"):
        encoder.features(pixels, wanted=("gird",))


def test_a_tower_without_a_grid() -> None:
    model = timm_model()
    encoder, pixels = Encoder(model, device=CPU), random_pixels(model)
    assert encoder.features(pixels)["global"].shape == (3, 16)
    with pytest.raises(UserError, match="features=grid: this image tower has no grid"):
        encoder.features(pixels, wanted=BOTH)
    with pytest.raises(UserError, match="features=grid: this image tower has no grid"):
        grid_shape(model.visual)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "int8"])
@pytest.mark.parametrize("build", [vit, resnet, mixer])
def test_every_precision_gives_float32_near_the_full_one(build: Callable[[], CLIP], precision: Precision) -> None:
    pixels = random_pixels(build())
    full = Encoder(build(), device=CPU, precision="fp32").features(pixels, wanted=BOTH, grid_pool=2)
    reduced = Encoder(build(), device=CPU, precision=precision).features(pixels, wanted=BOTH, grid_pool=2)
    for name in BOTH:
        assert (reduced[name].dtype, reduced[name].shape) == (np.float32, full[name].shape)
        one, other = reduced[name].ravel(), full[name].ravel()
        assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.99


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_a_batch_too_large_for_the_memory_is_halved(model: CLIP, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, pixels = Encoder(model, device=CPU), random_pixels(model, 5)
    whole, trunk = encoder.features(pixels, wanted=BOTH), model.visual.trunk

    def with_little_memory(batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > limit:
            raise torch.OutOfMemoryError("out of memory")
        return trunk(batch)  # pyright: ignore[reportCallIssue]

    monkeypatch.setattr(model.visual, "trunk", with_little_memory)
    for name, values in encoder.features(pixels, wanted=BOTH).items():
        np.testing.assert_allclose(values, whole[name], atol=1e-4)


def preset_of(path: Path) -> Any:
    name = path.relative_to(PRESETS).with_suffix("").as_posix()
    return OmegaConf.to_container(composed("extract", f"preset={name}"))


def test_a_preset_is_named_as_it_is_asked_for() -> None:
    names = [path.relative_to(PRESETS).with_suffix("").as_posix() for path in PRESET_FILES]
    assert names == [preset_of(path)["preset"]["name"] for path in PRESET_FILES]
    assert set(names) == {
        *("RN101", "RN101_448", "ViT-B/32", "ViT-B/32_448", "ViT-B/16", "RN50x4", "RN50x64", "ViT-L/14")
    }


@pytest.mark.parametrize("path", PRESET_FILES, ids=lambda path: path.stem)
def test_a_preset_promises_the_shapes_of_its_model(path: Path) -> None:
    """The real sizes, with tensors that have shapes only."""
    options = preset_of(path)
    with torch.device("meta"), WithoutInitialWeights(), torch.no_grad():
        visual: Any = ARCHITECTURES[options["model_name"]].build().visual.eval()
        if options["resolution"]:
            visual.at_resolution(options["resolution"])
        trunk = visual.trunk(torch.empty(1, 3, visual.input_resolution, visual.input_resolution))
        grid, vector = F.avg_pool2d(visual.grid(trunk), options["grid_pool"]), visual.head(trunk)
    n, c = options["preset"]["grid"]
    assert (grid.shape[1], grid.shape[2] * grid.shape[3]) == (c, n)
    assert vector.shape == (1, options["preset"]["global"])
    shape = grid_shape(visual, options["grid_pool"])
    assert shape == (n, c)
    check_preset(options["preset"], model_name="any", grid_shape=shape, global_dim=vector.shape[1])


def test_a_model_that_contradicts_its_preset_is_refused() -> None:
    preset = {"name": "RN101_448", "grid": [49, 2048], "global": 512}
    message = r"preset=RN101_448 describes 49 x 2048 grid .* model_name=ViT-B/16 gives 196 x 768: drop one of"
    with pytest.raises(UserError, match=message):
        check_preset(preset, model_name="ViT-B/16", grid_shape=(196, 768), global_dim=512)
    with pytest.raises(UserError, match=r"describes global features of 512 numbers, model_name=RN50 gives 1024"):
        check_preset(preset, model_name="RN50", grid_shape=None, global_dim=1024)
    check_preset(preset, model_name="any", grid_shape=None, global_dim=512)
    check_preset(None, model_name="any", grid_shape=(1, 1), global_dim=1)


@pytest.mark.parametrize(
    ("name", "preset", "folder"),
    [
        ("ViT-B_32", None, "clip/ViT-B_32"),
        ("ViT-B_32", "ViT-B/32", "clip/ViT-B_32"),
        ("ViT-B_32", "ViT-B/32_448", "clip/ViT-B_32_448"),
        ("mine", "ViT-B/32_448", "clip/mine_ViT-B_32_448"),
    ],
)
def test_results_of_a_preset_have_a_folder_of_their_own(name: str, preset: str | None, folder: str) -> None:
    choice = {"name": preset} if preset else None
    model: Any = SimpleNamespace(feature_type="clip", name=name, folder=f"clip/{name}")
    assert preset_folder(model, choice) == folder
