"""Grid features of OpenAI-CLIP-Feature, made by its own code (../shared/parity/MANIFEST.md)."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from extraction.encoder import Encoder
from extraction.preprocess import Preprocess
from models.clip.weights import load_model
from tests.helpers.shared_data import PARITY

pytestmark = pytest.mark.shared

TOLERANCE = 1e-4  # of an array's largest value
# Resized to 448 this one grows in width and shrinks in height; Pillow 13, with which the numbers were made, rounds that
# otherwise than older versions do (up to 6 of 255 levels).
ROUNDED_OTHERWISE = ["hubble_portrait.jpg"] if int(PIL.__version__.partition(".")[0]) < 13 else []


@dataclass(frozen=True)
class Case:
    """`vit_448_pool_bilinear_local`: a key of expected_grid.npz, read."""

    kind: str
    resolution: int
    grid_pool: int
    interpolation: str
    what: str

    @classmethod
    def of(cls, key: str) -> "Case":
        kind, resolution, pool, *rest = key.split("_")
        interpolation = rest.pop(0) if rest[0].startswith("bi") else "bicubic"
        return cls(kind, int(resolution), 2 if pool == "pool" else 1, interpolation, "_".join(rest))


@functools.cache
def expected() -> dict[str, np.ndarray]:
    with np.load(PARITY / "expected_grid.npz") as arrays:
        return dict(arrays)


@functools.cache
def encoder(kind: str, resolution: int, interpolation: str) -> Encoder:
    model = load_model(PARITY / f"tiny_{kind}.pt", resolution=resolution, interpolation=interpolation)  # pyright: ignore
    return Encoder(model, device=torch.device("cpu"), precision="fp32")


@functools.cache
def pixels(resolution: int) -> torch.Tensor:
    """All images as the original prepares them: first RGB; squashed at 448."""
    resize = "crop" if resolution == 224 else "squash"
    preprocess = Preprocess(resolution, "exact", resize, convert_rgb="before_resize")
    prepared = []
    for name in expected()["names"]:
        with Image.open(PARITY / "images" / str(name)) as image:
            prepared.append(preprocess.image(image))
    return torch.stack(prepared)


@functools.cache
def found(kind: str, resolution: int, grid_pool: int, interpolation: str) -> dict[str, np.ndarray]:
    wanted = ("global", "grid")
    return encoder(kind, resolution, interpolation).features(pixels(resolution), wanted=wanted, grid_pool=grid_pool)


def features_of(case: Case, names: Sequence[str]) -> np.ndarray:
    features = found(case.kind, case.resolution, case.grid_pool, case.interpolation)
    rows = [expected()["names"].tolist().index(name) for name in names]
    values = features["global" if case.what == "global" else "grid"][rows]
    return values.mean(axis=1) if case.what == "local_mean" else values


# The arrays of expected_grid.npz; the residual tower's grid at 448 does not depend on the interpolation.
KEYS = [
    f"{case}_{what}"
    for kind in ("vit", "rn")
    for case in (f"{kind}_224_nopool", f"{kind}_224_pool", f"{kind}_448_pool_bicubic", f"{kind}_448_nopool_bicubic")
    for what in ("local", "local_mean", "global")
]
KEYS += [f"vit_448_{pool}_bilinear_{what}" for pool in ("pool", "nopool") for what in ("local", "local_mean", "global")]
KEYS += ["rn_448_pool_bilinear_global"]


@pytest.mark.parametrize("key", KEYS)
def test_features(key: str) -> None:
    case, wanted = Case.of(key), expected()[key]
    names = expected()["names_full" if case.what == "local" else "names"][: len(wanted)]
    values = features_of(case, names.tolist())
    assert (values.shape, values.dtype) == (wanted.shape, np.float32)
    comparable = ~np.isin(names, ROUNDED_OTHERWISE) if case.resolution == 448 else np.ones(len(names), dtype=bool)
    assert np.abs(values - wanted)[comparable].max() <= TOLERANCE * np.abs(wanted).max()


def test_every_array_is_compared() -> None:
    tables = [f"{kind}_pos_448_{way}" for kind in ("vit", "rn") for way in ("bicubic", "bilinear")]
    assert set(expected()) == {*KEYS, *tables, "names", "names_full"}


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_positions(kind: str, interpolation: str) -> None:
    visual: Any = encoder(kind, 448, interpolation).model.visual
    table = visual.positional_embedding if kind == "vit" else visual.attnpool.positional_embedding
    np.testing.assert_allclose(table.numpy(), expected()[f"{kind}_pos_448_{interpolation}"], atol=1e-6)


def test_the_order_of_resizing_and_rgb_matters_to_the_numbers() -> None:
    """Guards the cases above: the other order would fail them."""
    with Image.open(PARITY / "images" / "rgba.png") as image:
        other = Preprocess(224, "exact").image(image)
    row = expected()["names"].tolist().index("rgba.png")
    values = encoder("rn", 224, "bicubic").features(other.unsqueeze(0))["global"][0]
    wanted = expected()["rn_224_nopool_global"]
    assert np.abs(values - wanted[row]).max() > 100 * TOLERANCE * np.abs(wanted).max()
