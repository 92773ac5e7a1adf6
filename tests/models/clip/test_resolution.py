"""Images of another size: tables of positions, what is refused, what a saved model says afterwards."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from extraction.encoder import Encoder
from extraction.preprocess import Preprocess
from models.clip.description import build, describe, told_by_shapes
from models.clip.hub_towers import TimmTower
from models.clip.mixer import VisionMixer
from models.clip.positions import Interpolation, resize_positions
from models.clip.weights import load_model
from tests.helpers.architectures import Architecture
from tests.helpers.tiny_clip import TINY, TINY_RESNET, tiny_model
from utils.errors import UserError

KINDS = {"vit": (TINY, 16), "resnet": (TINY_RESNET, 32)}  # architecture, pixels a position


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def architecture(kind: str) -> Architecture:
    return KINDS[kind][0]


@pytest.fixture
def checkpoint(architecture: Architecture, tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    torch.save(tiny_model(architecture=architecture).state_dict(), path)
    return path


def table_of(visual: Any) -> nn.Parameter:
    return visual.attnpool.positional_embedding if hasattr(visual, "attnpool") else visual.positional_embedding


def test_the_same_size_changes_no_bit(architecture: Architecture, checkpoint: Path) -> None:
    plain, asked = load_model(checkpoint), load_model(checkpoint, resolution=architecture.resolution)
    assert torch.equal(table_of(plain.visual), table_of(asked.visual))
    assert describe(plain) == describe(asked)
    table = nn.Parameter(torch.randn(10, 4))
    assert resize_positions(table, 3, "bicubic") is table


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_model_runs_with_the_resized_table(kind: str, checkpoint: Path, interpolation: Interpolation) -> None:
    """A well-known implementation assigned it beside the parameter, and ran on zeros."""
    size = 4 * KINDS[kind][1]
    model = load_model(checkpoint, resolution=size, interpolation=interpolation)
    table, old = table_of(model.visual), table_of(load_model(checkpoint).visual)
    assert table.shape == (17, old.shape[1])
    assert isinstance(table, nn.Parameter)
    assert table.abs().sum(dim=1).min() > 0
    assert torch.equal(table[0], old[0])
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    encoder = Encoder(model, device=torch.device("cpu"))
    before = encoder.images(pixels)
    table.data[1:] = 0
    assert not np.allclose(before, encoder.images(pixels), atol=1e-6)


def test_the_square_is_interpolated_not_its_rows() -> None:
    """A ramp along the rows stays one; the first row is not part of the square."""
    ramp = torch.arange(4.0).repeat(4)
    table = nn.Parameter(torch.cat([torch.tensor([-9.0]), ramp]).unsqueeze(1))
    resized = resize_positions(table, 8, "bilinear")
    assert resized[0] == -9
    square = resized[1:, 0].reshape(8, 8)
    assert torch.equal(square, square[:1].expand(8, 8))
    assert square[0].tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]  # halves of pixels, no aligned corners


def test_smaller_is_not_smoothed() -> None:
    """No antialiasing: bilinear from 4 to 2 reads the four in the middle of each quarter."""
    square = torch.zeros(4, 4)
    square[1, 1] = 4
    table = nn.Parameter(torch.cat([torch.zeros(1), square.flatten()]).unsqueeze(1))
    assert resize_positions(table, 2, "bilinear")[1:, 0].tolist() == [1, 0, 0, 0]


def test_a_saved_model_is_told_apart_and_comes_back(kind: str, checkpoint: Path, tmp_path: Path) -> None:
    size = 5 * KINDS[kind][1]
    model = load_model(checkpoint, resolution=size)
    assert model.visual.input_resolution == size
    assert Preprocess.of(model.visual).resolution == size
    assert describe(model)["visual"]["arguments"]["resolution"] == size
    assert told_by_shapes(model)
    assert describe(build(describe(model))) == describe(model)
    torch.save(model.state_dict(), tmp_path / "again.pt")
    again = load_model(tmp_path / "again.pt")
    assert again.visual.input_resolution == size
    assert torch.equal(table_of(again.visual), table_of(model.visual))


@pytest.mark.parametrize(
    ("resolution", "message"),
    [
        (100, "resolution=100: expected a multiple of 16 pixels; nearest: 96 and 112"),
        (7, "resolution=7: expected a multiple of 16 pixels; nearest: 16$"),
        (0, "resolution=0: expected a multiple of 16 pixels; nearest: 16$"),
        (-16, "resolution=-16: expected a multiple of 16 pixels; nearest: 16$"),
    ],
)
def test_sizes_that_are_no_whole_number_of_patches(resolution: int, message: str) -> None:
    visual: Any = tiny_model().visual
    with pytest.raises(UserError, match=message):
        visual.at_resolution(resolution)
    assert visual.input_resolution == TINY.resolution


def test_a_resnet_counts_in_32() -> None:
    visual: Any = tiny_model(architecture=TINY_RESNET).visual
    with pytest.raises(UserError, match="resolution=80: expected a multiple of 32 pixels; nearest: 64 and 96"):
        visual.at_resolution(80)


@pytest.mark.parametrize("resolution", [0, -16, 48.5, "48px", True])
def test_sizes_that_are_no_number_of_pixels(resolution: Any, checkpoint: Path) -> None:
    with pytest.raises(UserError, match=f"resolution={resolution}: expected a whole number"):
        load_model(checkpoint, resolution=resolution)


def test_unknown_interpolations(checkpoint: Path) -> None:
    with pytest.raises(UserError, match="interpolation=bicubik: did you mean bicubic"):
        load_model(checkpoint, interpolation="bicubik")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("tower", "message"),
    [
        (
            lambda: VisionMixer(resolution=32, width=16, layers=1),
            "a Mixer has weights for every position; this one takes 32 only",
        ),
        (lambda: TimmTower(model_name="resnet10t", resolution=32), "this timm model was built for 32 pixels"),
    ],
)
def test_towers_of_one_size(tower: Any, message: str) -> None:
    visual = tower()
    visual.at_resolution(32)
    with pytest.raises(UserError, match=f"resolution=64: {message}"):
        visual.at_resolution(64)
