"""`.npz` files as X-modaler reads them. Its reading rules are written down here once more, from its description."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store.forms import SaveNpz, SaveNumpy, SaveXmodalerVideo
from tests.helpers.saved_forms import Folder
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
    features = image(make)
    Folder(tmp_path, SaveNpz()).save(features)
    path = tmp_path / "clip" / "ViT-B_32" / "391895.npz"
    found = xmodaler_reads(path)
    np.testing.assert_array_equal(found["features"], features.arrays["grid"][0])
    np.testing.assert_array_equal(found["g_feature"][0], features.arrays["clip"])
    assert sorted(np.load(path).files) == ["features", "g_feature"]


def test_texts_are_one_array(make: Make, tmp_path: Path) -> None:
    features = texts_of(make)
    Folder(tmp_path, SaveNpz()).save(features)
    path = tmp_path / "clip" / "ViT-B_32_texts" / "391895.npz"
    assert np.load(path).files == ["g_feature"]
    np.testing.assert_array_equal(xmodaler_reads(path)["features"], features.arrays["clip"])


def test_videos_keep_their_rows_and_times(make: Make, tmp_path: Path) -> None:
    arrays = {
        "clip": RNG.normal(size=(3, 8)).astype(np.float32),
        "grid": RNG.normal(size=(3, 4, 6)).astype(np.float32),
        "fps": np.array(25.0),
        "timestamps_ms": np.array([0.0, 40.0, 80.0]),
    }
    Folder(tmp_path, SaveNpz()).save(make("dog", arrays=arrays))
    found = np.load(tmp_path / "clip" / "ViT-B_32" / "dog.npz")
    assert {key: found[key].shape for key in found.files} == {
        "g_feature": (3, 8),
        "features": (3, 4, 6),
        "fps": (),
        "timestamps_ms": (3,),
    }


def test_its_form_for_videos(make: Make, tmp_path: Path) -> None:
    features, videos, numpy = make("video7012"), Folder(tmp_path, SaveXmodalerVideo()), Folder(tmp_path, SaveNumpy())
    videos.save(features)
    found = np.load(tmp_path / "clip" / "ViT-B_32" / "video7012.npy")
    np.testing.assert_array_equal(found, features.arrays["clip"])
    # Beside save_numpy, whose files end in .npy, too: neither takes the other's for its own.
    assert not numpy.done(features)
    numpy.save(features)
    assert numpy.done(features)
    assert videos.done(features)
    with pytest.raises(MediaError, match="of the grid only"):
        videos.save(make("x", arrays={"grid": np.ones((1, 4, 6), np.float32)}))


def test_what_the_form_for_videos_left_out_is_missed_on_reading(make: Make, tmp_path: Path) -> None:
    videos = Folder(tmp_path, SaveXmodalerVideo())
    videos.save(make("video7012"))
    (found,) = videos.read()
    assert isinstance(found, MediaError)
    assert "left out fps, timestamps_ms" in str(found)
