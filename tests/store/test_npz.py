"""`.npz` files as X-modaler reads them. Its reading rules are written down here once more, from its description."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store.handlers import SaveNpz, SaveNumpy, SaveXmodalerVideo

from utils.errors import MediaError
from utils.types import Features, Item

Make = Callable[..., Features]
RNG = np.random.default_rng(0)


def image(make: Make, **changes: Any) -> Features:
    arrays = {
        "clip": RNG.normal(size=(1, 512)).astype(np.float32),
        "grid": RNG.normal(size=(1, 49, 2048)).astype(np.float32),
    }
    return make("391895", **({"arrays": arrays} | changes))


def texts_of(make: Make) -> Features:
    source = make("captions")
    item = Item(source.item.path, "391895", ("a cat", "a dog", "two dogs"))
    return Features(item, "clip/ViT-B_32_texts", {"clip": RNG.normal(size=(3, 512)).astype(np.float32)}, {})


def xmodaler_reads(path: Path, max_feat_num: int = 50) -> dict[str, np.ndarray]:
    """Its dataset for COCO: one array alone is `features` under any name; `boxes` would ask for detections."""
    content = np.load(path)
    if len(content.files) == 1:
        content = {"features": content[content.files[0]]}
    assert "boxes" not in content
    result = {"features": content["features"][0:max_feat_num].astype("float32")}
    if "g_feature" in content:  # COS-Net views it as (batch, ?, 512)
        result["g_feature"] = content["g_feature"].reshape(1, -1, 512)
    return result


def test_image(make: Make, tmp_path: Path) -> None:
    save, features = SaveNpz(tmp_path), image(make)
    assert not save.done(features.item, features.folder, features.settings)
    save(features)
    assert save.done(features.item, features.folder, features.settings)
    path = tmp_path / "clip" / "ViT-B_32" / "391895.npz"
    found = xmodaler_reads(path)
    np.testing.assert_array_equal(found["features"], features.arrays["grid"][0])
    np.testing.assert_array_equal(found["g_feature"][0], features.arrays["clip"])
    assert sorted(np.load(path).files) == ["features", "g_feature"]


def test_texts_are_one_array(make: Make, tmp_path: Path) -> None:
    features = texts_of(make)
    SaveNpz(tmp_path)(features)
    path = tmp_path / "clip" / "ViT-B_32_texts" / "391895.npz"
    assert np.load(path).files == ["g_feature"]
    np.testing.assert_array_equal(xmodaler_reads(path)["features"], features.arrays["clip"])


def test_a_caption_that_changed_is_done_again(make: Make, tmp_path: Path) -> None:
    save, features = SaveNpz(tmp_path), texts_of(make)
    save(features)
    item = features.item
    assert save.done(item, features.folder, {})
    assert not save.done(Item(item.path, item.name, ("a cat", "a dog", "two cats")), features.folder, {})
    assert save.done(Item(Path("elsewhere.json"), item.name, item.texts), features.folder, {})


def test_videos_keep_their_rows_and_times(make: Make, tmp_path: Path) -> None:
    arrays = {
        "clip": RNG.normal(size=(3, 8)).astype(np.float32),
        "grid": RNG.normal(size=(3, 4, 6)).astype(np.float32),
        "fps": np.array(25.0),
        "timestamps_ms": np.array([0.0, 40.0, 80.0]),
    }
    SaveNpz(tmp_path)(make("dog", arrays=arrays))
    found = np.load(tmp_path / "clip" / "ViT-B_32" / "dog.npz")
    assert {key: found[key].shape for key in found.files} == {
        "g_feature": (3, 8),
        "features": (3, 4, 6),
        "fps": (),
        "timestamps_ms": (3,),
    }


def test_its_form_for_videos(make: Make, tmp_path: Path) -> None:
    features = make("video7012")
    SaveXmodalerVideo(tmp_path)(features)
    found = np.load(tmp_path / "clip" / "ViT-B_32" / "video7012.npy")
    np.testing.assert_array_equal(found, features.arrays["clip"])
    # Beside save_numpy, whose files end in .npy, too: neither takes the other's for its own.
    numpy = SaveNumpy(tmp_path)
    assert not numpy.done(features.item, features.folder, features.settings)
    numpy(features)
    assert numpy.done(features.item, features.folder, features.settings)
    assert SaveXmodalerVideo(tmp_path).done(features.item, features.folder, features.settings)
    with pytest.raises(MediaError, match="of the grid only"):
        SaveXmodalerVideo(tmp_path)(make("x", arrays={"grid": np.ones((1, 4, 6), np.float32)}))


@pytest.mark.parametrize("damage", ["missing", "other bytes"])
def test_damaged_archives_are_done_again(make: Make, tmp_path: Path, damage: str) -> None:
    save, features = SaveNpz(tmp_path), image(make)
    save(features)
    path = tmp_path / "clip" / "ViT-B_32" / "391895.npz"
    data = path.read_bytes()
    path.unlink()
    if damage == "other bytes":
        path.write_bytes(data[:-1] + b"x")
    assert not save.done(features.item, features.folder, features.settings)
    save(features)
    assert save.done(features.item, features.folder, features.settings)


def test_another_file_of_the_same_name_does_not_replace_it(make: Make, tmp_path: Path) -> None:
    save, features = SaveNpz(tmp_path), image(make)
    save(features)
    other = features.item.path.with_suffix(".png")
    other.write_bytes(b"another picture")
    with pytest.raises(MediaError, match=r"391895.png: .* already holds results of .*391895.mp4"):
        save(Features(Item(other, "391895"), features.folder, features.arrays, features.settings))
    moved = features.item.path.parent / "moved" / features.item.path.name
    moved.parent.mkdir()
    moved.write_bytes(b"the same picture, newer")
    save(Features(Item(moved, "391895"), features.folder, features.arrays, features.settings))
    record = json.loads((tmp_path / "clip" / "ViT-B_32" / "391895_meta.json").read_text())
    assert record["source"]["path"] == str(moved)
