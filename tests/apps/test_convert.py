"""`--config-name convert`: from any saved form into any other, and back to the bit."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store.handlers import SaveNpz, SaveNumpy, SavePickle

from apps.convert import convert
from store.forms import read_array
from store.hdf5 import SaveHdf5
from utils.errors import MediaError, UserError
from utils.types import Features, Handler, Item

FORMS: dict[str, Callable[[Path], Handler]] = {
    "numpy": SaveNumpy,
    "pickle": SavePickle,
    "npz": SaveNpz,
    "hdf5": SaveHdf5,
}


@pytest.fixture
def saved(tmp_path: Path) -> list[Features]:
    """A video, a picture in a sub folder, and texts."""
    rng = np.random.default_rng(0)
    for name in ("dog.mp4", "cats/cat.jpg", "captions.json"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(name.encode())

    def floats(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    video = {"clip": floats(3, 8), "grid": floats(3, 4, 6), "fps": np.array(25.0), "timestamps_ms": np.arange(3.0)}
    predictions = [{"timestamp_ms": k, "labels": ["a"], "probabilities": [1.0], "logits": [2.0]} for k in range(3)]
    folder, settings = "clip/ViT-B_32", {"model": "x", "feature_type": "clip"}
    texts = ("a cat", "two cats")
    return [
        Features(Item(tmp_path / "in" / "dog.mp4", "dog"), folder, video, settings, {"rows": 3}, predictions),
        Features(
            Item(tmp_path / "in" / "cats" / "cat.jpg", "cats/cat"),
            folder,
            {"clip": floats(1, 8), "grid": floats(1, 4, 6)},
            settings,
        ),
        Features(
            Item(tmp_path / "in" / "captions.json", "17", texts),
            f"{folder}_texts",
            {"clip": floats(2, 8)},
            settings,
            {"texts": list(texts)},
        ),
    ]


def all_arrays(folder: Path) -> dict[str, np.ndarray]:
    return {path.relative_to(folder).as_posix(): np.load(path) for path in sorted(folder.rglob("*.npy"))}


@pytest.mark.parametrize("form", FORMS)
def test_there_and_back_again(saved: list[Features], tmp_path: Path, form: str) -> None:
    first, second, third = (tmp_path / name for name in ("numpy", "other", "again"))
    numpy, other = SaveNumpy(first), FORMS[form](second)
    for features in saved:
        numpy(features)
    assert convert(input_path=str(first), on_extraction=[other], output_path=second) == 0
    assert all(other.done(each.item, each.folder, each.settings) for each in saved)
    assert convert(input_path=str(second), on_extraction=[SaveNumpy(third)], output_path=third) == 0
    expected, found = all_arrays(first), all_arrays(third)
    assert expected.keys() == found.keys()
    assert len(found) == 7
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    assert (third / "clip" / "ViT-B_32" / "dog_predictions.json").read_bytes() == (
        first / "clip" / "ViT-B_32" / "dog_predictions.json"
    ).read_bytes()


def test_twice_is_skipped_and_a_damaged_item_is_listed(
    saved: list[Features], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numpy = SaveNumpy(tmp_path / "numpy")
    for features in saved:
        numpy(features)
    (tmp_path / "numpy" / "clip" / "ViT-B_32" / "dog_clip.npy").write_bytes(b"no array")
    out = tmp_path / "out"
    assert convert(input_path=str(tmp_path / "numpy"), on_extraction=[SaveNpz(out)], output_path=out) == 1
    assert "dog_clip.npy: not what its meta file says" in capsys.readouterr().err
    assert convert(input_path=str(tmp_path / "numpy"), on_extraction=[SaveNpz(out)], output_path=out) == 1
    assert "2 skipped, 1 failed" in capsys.readouterr().err


def test_a_pickle_that_is_no_array_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "was here",))

    (tmp_path / "dog_clip.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(MediaError, match="which is no array"):
        read_array(tmp_path / "dog_clip.pkl", {"key": "clip"})
    assert not (tmp_path / "was here").exists()


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a folder with saved features"):
        convert(input_path=str(tmp_path), on_extraction=[SaveNumpy(tmp_path)], output_path=tmp_path)
    with pytest.raises(UserError, match=r"on_extraction=\[\]"):
        convert(input_path=str(tmp_path), on_extraction=[], output_path=tmp_path)
