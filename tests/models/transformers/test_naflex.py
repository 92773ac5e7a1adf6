"""SigLIP 2 NaFlex: pictures of many shapes in one batch, grids that are saved with theirs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import call
from PIL import Image

from extraction.batching import Encoded
from extraction.encoder import Encoder
from extraction.events import End
from extraction.preprocess import preparation_for
from extraction.streams import without_filling
from models.load import ModelChoice, extractor, load
from tests.helpers.configs import composed
from tests.helpers.shared_data import ROOT
from utils.errors import MediaError
from utils.types import Item

SAMPLE = ROOT / "sample"
SIZES = {"wide": (120, 40), "tall": (33, 130), "square": (64, 64), "full": (100, 80)}  # full: all of 20 patches
GRIDS = {"wide": (2, 6), "tall": (8, 2), "square": (4, 4), "full": (4, 5)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in SIZES.items():
        Image.open(SAMPLE / "cat.jpg").resize(size).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def encoder(folders: dict[str, Path]) -> Encoder:
    choice = ModelChoice(feature_type="transformers", model_name=str(folders["naflex"]), device="cpu")
    return Encoder(load(choice).model, device=torch.device("cpu"))


def ours(folder: Path, **options: Any) -> Any:
    return extractor("transformers", model_name=str(folder), device="cpu", **options)


def run(job: str, folder: Path, tmp_path: Path, *given: str) -> int:
    family = ("feature_type=transformers", f"model_name={folder}", "device=cpu", f"output_path={tmp_path / 'out'}")
    return call(composed(job, *family, *given).job, _convert_="all")


def test_a_picture_in_any_company_is_the_same_to_the_bit(encoder: Encoder, photos: Path) -> None:
    prepare = preparation_for(encoder.model.visual)
    pixels = {name: prepare.image(Image.open(photos / f"{name}.png")) for name in SIZES}
    mixed = encoder.features(list(pixels.values()), wanted=("global", "grid"))
    assert mixed["grid"].shape == (4, 20, 32)
    assert [tuple(shape) for shape in mixed["grid_shape"].tolist()] == list(GRIDS.values())
    for row, name in enumerate(SIZES):
        alone = encoder.features([pixels[name]] * 4, wanted=("global", "grid"))
        for key in mixed:
            np.testing.assert_array_equal(mixed[key][row], alone[key][0])
        assert not mixed["grid"][row, np.prod(GRIDS[name]) :].any()


def test_a_pooled_grid_is_the_mean_of_windows(encoder: Encoder, photos: Path) -> None:
    pixels = [preparation_for(encoder.model.visual).image(Image.open(photos / "tall.png"))]
    whole = encoder.features(pixels, wanted=("grid",))["grid"][0, :16].reshape(8, 2, 32)
    pooled = encoder.features(pixels, wanted=("grid",), grid_pool=2)
    assert pooled["grid_shape"].tolist() == [[4, 1]]
    expected = whole.reshape(4, 2, 2, 32).mean(axis=(1, 2))
    np.testing.assert_allclose(pooled["grid"][0, :4], expected, atol=1e-6)


def test_grids_are_saved_with_their_shapes(folders: dict[str, Path], photos: Path, tmp_path: Path, capsys: Any) -> None:
    inputs = (f"image_paths={photos}", f"video_paths={SAMPLE / 'v_GGSY1Qvo990.mp4'}", "texts=[a cat]")
    options = ("features=[global,grid]", "extraction_total=2", "on_extraction=[save_numpy,save_hdf5]", "batch_size=3")
    assert run("extract", folders["naflex"], tmp_path, *inputs, *options) == 0
    home = tmp_path / "out" / "transformers" / "small-naflex"
    for name, shape in GRIDS.items():
        assert np.load(home / f"{name}_grid_shape.npy").tolist() == [list(shape)]
        assert np.load(home / f"{name}_grid.npy").shape == (1, np.prod(shape), 32)
    assert np.load(home / "v_GGSY1Qvo990_grid.npy").shape == (2, 20, 32)
    record = json.loads((home / "tall_meta.json").read_text())
    assert (record["settings"]["resize"], record["settings"]["max_patches"]) == ("patches", 20)
    assert record["provenance"]["licence"] == "apache-2.0"
    capsys.readouterr()
    assert run("extract", folders["naflex"], tmp_path, *inputs, *options) == 0
    assert "6 skipped" in capsys.readouterr().err


@pytest.mark.parametrize("job", ["search", "evaluate"])
def test_other_jobs(folders: dict[str, Path], photos: Path, tmp_path: Path, job: str) -> None:
    given = {"search": ["query=a cat", f"image_paths={photos}"], "evaluate": ["evaluation=[retrieval]", "num_scenes=6"]}
    assert run(job, folders["naflex"], tmp_path, *given[job]) == 0
    file = {"search": "a_cat.json", "evaluate": "small-naflex/results.json"}[job]
    facts = json.loads((tmp_path / "out" / file).read_text())["model"]
    assert (facts["feature_type"], facts["resize"], facts["max_patches"]) == ("transformers", "patches", 20)


def test_more_patches(folders: dict[str, Path]) -> None:
    found = ours(folders["naflex"], features="grid", max_patches=70).extract_image(SAMPLE / "cat.jpg")
    assert 60 < np.prod(found["grid_shape"][0]) == found["grid"].shape[1] <= 70


def test_squares_are_grids_of_one_shape(folders: dict[str, Path], photos: Path) -> None:
    extract = ours(folders["naflex"], features="grid", resize="squash")
    assert {tuple(extract.extract_image(each)["grid_shape"][0]) for each in photos.iterdir()} == {(4, 4)}


def test_rows_of_several_shapes_are_filled_up_to_the_largest() -> None:
    """As those of a video that changes its size."""
    grid, shapes = np.zeros((2, 20, 3), np.float32), np.array([[2, 6], [8, 2]])
    item = Item(Path("a.mp4"), "a")
    found = without_filling(Encoded(item, {"grid": grid, "grid_shape": shapes}, [0, 1], [0, 1], End()))
    assert (found["grid"].shape, found["grid_shape"].tolist()) == ((2, 16, 3), shapes.tolist())


def test_a_grid_too_narrow_to_be_pooled(folders: dict[str, Path], photos: Path) -> None:
    with pytest.raises(MediaError, match=r"wide.png: too narrow for grid_pool: 0 x 2 windows"):
        ours(folders["naflex"], features="grid", grid_pool=3).extract_image(photos / "wide.png")
