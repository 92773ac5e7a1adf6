"""Stored features in every form they come in, and what is said when they are not there."""

import h5py
import numpy as np
import pytest

from pairs.annotations import AnnotatedImage
from store.record import Record, record_bytes, write_record
from tests.helpers.saved_forms import Folder, saving_forms
from training.captioning.features import EMBEDDING, GRID, as_embedding, as_grid, open_features
from utils.errors import UserError
from utils.types import Features, Item, Source

IMAGES = [
    AnnotatedImage("42", "train", "val2014/COCO_val2014_000000000042.jpg"),
    AnnotatedImage("7", "val", "val2014/COCO_val2014_000000000007.jpg"),
]
RNG = np.random.default_rng(0)
GRIDS = {image.id: RNG.normal(size=(4, 5)).astype(np.float32) for image in IMAGES}
VECTORS = {image.id: RNG.normal(size=6).astype(np.float32) for image in IMAGES}
NAMES = {
    "id": lambda image: image.id,
    "stem": lambda image: image.file_path.removeprefix("val2014/").removesuffix(".jpg"),
    "path": lambda image: image.file_path.removesuffix(".jpg"),
}


def npz(folder, name, image):
    """`features` and `g_feature`, as the extractor writes them."""
    (folder / f"{name}.npz").parent.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{name}.npz", features=GRIDS[image.id], g_feature=VECTORS[image.id][None])


def npy(folder, name, image):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}_grid.npy", GRIDS[image.id][None].astype(np.float16))
    np.save(folder / f"{name}_clip.npy", VECTORS[image.id][None])


def clip_vil(folder, name, image):
    """`feat` (14, 14, c), here (2, 2, 5), and embeddings without a leading axis."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{name}.npz", feat=GRIDS[image.id].reshape(2, 2, 5))
    (folder / "embeddings" / name).parent.mkdir(parents=True, exist_ok=True)
    np.save(folder / "embeddings" / f"{name}.npy", VECTORS[image.id])


def hdf5_groups(folder, name, image):
    with h5py.File(folder / "all.h5", "a") as file:
        file[f"{name}/features"], file[f"{name}/g_feature"] = GRIDS[image.id], VECTORS[image.id][None]


def hdf5_flat(folder, name, image):
    for key, array in {"grids": GRIDS[image.id], "embeddings": VECTORS[image.id]}.items():
        with h5py.File(folder / f"{key}.hdf5", "a") as file:
            file[name] = array


FORMS = {
    npz: ("", ""),
    npy: ("", ""),
    clip_vil: ("", "embeddings"),
    hdf5_groups: ("all.h5", "all.h5"),
    hdf5_flat: ("grids.hdf5", "embeddings.hdf5"),
}


@pytest.mark.parametrize("write", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_every_form_and_name_gives_the_same(tmp_path, write, name):
    for image in IMAGES:
        write(tmp_path, NAMES[name](image), image)
    grids = open_features(tmp_path / FORMS[write][0], IMAGES, GRID)
    embeddings = open_features(tmp_path / FORMS[write][1], IMAGES, EMBEDDING)
    for image in IMAGES:
        np.testing.assert_allclose(grids[image.id], GRIDS[image.id], rtol=1e-3)
        expected = VECTORS[image.id] / np.linalg.norm(VECTORS[image.id])
        np.testing.assert_allclose(embeddings[image.id], expected, rtol=1e-6)
        assert embeddings[image.id].dtype == np.float32


@pytest.mark.parametrize("kind", [GRID, EMBEDDING])
@pytest.mark.parametrize("write", [npz, hdf5_groups])
def test_missing_features_are_counted_and_named(tmp_path, kind, write):
    """All at once, before anything else is done."""
    write(tmp_path, "42", IMAGES[0])
    path = tmp_path / FORMS[write][0]
    more = [AnnotatedImage(str(number), "train", f"{number}.jpg") for number in range(1000, 1010)]
    with pytest.raises(
        UserError, match=r"of 11 of 12 images: 7 or COCO_val2014_000000000007, 1000, .*1003 \.\.\.; .* like 42"
    ):
        open_features(path, [*IMAGES, *more], kind)


@pytest.mark.parametrize("write", [npz, npy, hdf5_groups])
def test_what_the_extractor_noted_is_found(tmp_path, write):
    write(tmp_path, "42", IMAGES[0])
    record = Record("42", {"model_name": "tiny", "resolution_px": 128}, Source("42.jpg"), {})
    path = tmp_path / FORMS[write][0]
    assert open_features(path, IMAGES[:1], GRID).settings("42") == {}
    if path.is_dir():
        write_record(tmp_path / "42_meta.json", record)
    else:
        with h5py.File(path, "a") as file:
            file["42"].attrs["record"] = record_bytes(record).decode()
    assert open_features(path, IMAGES[:1], GRID).settings("42") == record.settings


@pytest.mark.parametrize("form", saving_forms())
def test_every_form_of_any_family_that_holds_embeddings(tmp_path, form):
    source = tmp_path / "42.jpg"
    source.write_bytes(b"photo")
    arrays = {"siglip": VECTORS["42"][None], "grid": GRIDS["42"][None]}
    folder = Folder(tmp_path / "out", saving_forms()[form], gathered=True)
    folder.save(Features(Item(source, "42"), "siglip/base", arrays, {"feature_type": "siglip"}))
    if form == "save_pickle":
        return  # no form to train on: opening it could run anything
    path = tmp_path / "out" / "siglip" / ("base.h5" if form == "save_hdf5" else "base")
    embeddings = open_features(path, IMAGES[:1], EMBEDDING)
    np.testing.assert_allclose(embeddings["42"], VECTORS["42"] / np.linalg.norm(VECTORS["42"]), rtol=1e-6)
    if form != "save_xmodaler_video":
        np.testing.assert_array_equal(open_features(path, IMAGES[:1], GRID)["42"], GRIDS["42"])


def test_the_folder_that_the_extractor_was_given_does_as_well(tmp_path):
    """`clip/RN50/val2014/x` below `output_path`; with a second model's features beside them it is not clear whose."""
    for image in IMAGES:
        npz(tmp_path, f"clip/RN50/{NAMES['path'](image)}", image)
    grids = open_features(tmp_path, IMAGES, GRID)
    assert all((grids[image.id] == GRIDS[image.id]).all() for image in IMAGES)
    npz(tmp_path, "clip/RN101/7", IMAGES[1])
    with pytest.raises(UserError, match=r"no grids of 2 of 2 images: .*; what is there is like clip/RN101/7\.npz"):
        open_features(tmp_path, IMAGES, GRID)


def test_images_called_by_their_files_are_found_by_coco_numbers(tmp_path):
    """A csv file without ids, features extracted with `id_mode=coco_int`."""
    for image in IMAGES:
        npz(tmp_path, image.id, image)
    named = [AnnotatedImage(NAMES["stem"](image), image.split, image.file_path) for image in IMAGES]
    grids = open_features(tmp_path, named, GRID)
    assert all((grids[by.id] == GRIDS[image.id]).all() for by, image in zip(named, IMAGES, strict=True))


def test_files_of_the_same_name_in_two_folders_are_kept_apart(tmp_path):
    images = [AnnotatedImage(str(i), "train", f"{folder}/1.jpg") for i, folder in ((10, "a"), (20, "b"))]
    for number, folder in enumerate("ab"):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "1.npz", features=np.full((2, 3), number, np.float32))
    grids = open_features(tmp_path, images, GRID)
    assert [grids[image.id][0, 0] for image in images] == [0, 1]


def test_one_file_never_serves_two_images(tmp_path):
    np.savez(tmp_path / "1.npz", features=np.ones((2, 3), np.float32))
    images = [AnnotatedImage(str(i), "train", f"{folder}/1.jpg") for i, folder in ((10, "a"), (20, "b"))]
    with pytest.raises(UserError, match=r"1\.npz: features of one file would serve images 10 and 20"):
        open_features(tmp_path, images, GRID)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK no zip", "42.npz: not usable as grids"),
        (b"", "42.npz: not usable as grids"),
        ({"g_feature": np.ones(3)}, "expected one of features, grid, feat in it, found g_feature"),
        ({"features": np.ones((2, 4, 5))}, r"expected a grid \(n, c\), found float64 \(2, 4, 5\)"),
        ({"features": np.ones((0, 5))}, r"found float64 \(0, 5\)"),
        ({"features": np.ones((2, 5), int)}, r"found int64 \(2, 5\)"),
        ({"features": np.array([{"a": 1}], object)}, "not usable as grids"),
    ],
)
def test_unusable_files_are_named(tmp_path, content, message):
    path = tmp_path / "42.npz"
    path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
    grids = open_features(tmp_path, IMAGES[:1], GRID)
    with pytest.raises(UserError, match=message):
        grids["42"]


def test_a_file_cut_short_is_named(tmp_path):
    np.save(tmp_path / "42_grid.npy", GRIDS["42"])
    path = tmp_path / "42_grid.npy"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"42_grid\.npy: not usable as grids"):
        open_features(tmp_path, IMAGES[:1], GRID)["42"]


@pytest.mark.parametrize("vector", [np.zeros(4), np.array([1.0, np.nan]), np.array([1.0, np.inf]), np.ones((2, 3))])
def test_embeddings_without_a_direction_are_refused(vector):
    with pytest.raises(ValueError, match="embedding"):
        as_embedding(vector.astype(np.float32))


def test_half_precision_embeddings_do_not_overflow():
    assert np.linalg.norm(as_embedding(np.full(512, 3000, np.float16))) == pytest.approx(1)


def test_maps_are_read_row_by_row():
    np.testing.assert_array_equal(as_grid(np.arange(18.0).reshape(3, 3, 2)), np.arange(18.0).reshape(9, 2))


@pytest.mark.parametrize("name", ["nowhere", "grids.lmdb", "broken.h5"])
def test_what_is_neither_a_folder_nor_hdf5_is_refused(tmp_path, name):
    if name != "nowhere":
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=name):
        open_features(tmp_path / name, IMAGES, GRID)
