"""`--config-name convert`: from any saved form into any other, and back to the bit."""

from pathlib import Path

import numpy as np
import pytest

from apps.convert import convert
from store.forms import Form, SaveNpz, SaveNumpy
from tests.helpers.saved_forms import Folder, saving_forms
from utils.errors import UserError
from utils.types import Features, Item

FORMS = saving_forms()


def into(given: Path, form: Form, out: Path) -> int:
    return convert(input_path=str(given), forms=list(FORMS.values()), on_extraction=[form], output_path=out)


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
    if form == "save_xmodaler_video":  # keeps the global features, and says so of items that have more
        saved = [saved[2]]
    Folder(first, SaveNumpy()).save(*saved)
    assert into(first, FORMS[form], second) == 0
    assert all(Folder(second, FORMS[form]).done(each) for each in saved)
    assert into(second, SaveNumpy(), third) == 0
    expected, found = all_arrays(first), all_arrays(third)
    assert expected.keys() == found.keys()
    assert len(found) == sum(len(each.arrays) for each in saved)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    predictions = [folder / "clip" / "ViT-B_32" / "dog_predictions.json" for folder in (first, third)]
    assert len(saved) == 1 or predictions[0].read_bytes() == predictions[1].read_bytes()


def test_what_a_form_left_out_is_said(
    saved: list[Features], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Folder(tmp_path / "x", FORMS["save_xmodaler_video"]).save(*saved)
    assert into(tmp_path / "x", SaveNumpy(), tmp_path / "out") == 1
    printed = capsys.readouterr().err
    assert "1 done, 2 failed" in printed
    assert "this form left out grid, fps, timestamps_ms" in printed


def test_twice_is_skipped_and_a_damaged_item_is_listed(
    saved: list[Features], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Folder(tmp_path / "numpy", SaveNumpy()).save(*saved)
    (tmp_path / "numpy" / "clip" / "ViT-B_32" / "dog_clip.npy").write_bytes(b"no array")
    out = tmp_path / "out"
    assert into(tmp_path / "numpy", SaveNpz(), out) == 1
    assert "dog_clip.npy: not what its meta file says" in capsys.readouterr().err
    assert into(tmp_path / "numpy", SaveNpz(), out) == 1
    assert "2 skipped, 1 failed" in capsys.readouterr().err


def test_of_several_forms_one_that_is_intact_is_read(saved: list[Features], tmp_path: Path) -> None:
    Folder(tmp_path / "two", SaveNumpy(), SaveNpz()).save(*saved)
    (tmp_path / "two" / "clip" / "ViT-B_32" / "dog_clip.npy").write_bytes(b"no array")
    (tmp_path / "two" / "clip" / "ViT-B_32" / "cats" / "cat.npz").unlink()
    assert into(tmp_path / "two", FORMS["save_hdf5"], tmp_path / "out") == 0
    assert len(Folder(tmp_path / "out").arrays()) == 3


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"expected a folder with saved features \(\*_meta\.json, \*meta\.jsonl, \*\.h5\)"
    ):
        into(tmp_path, SaveNumpy(), tmp_path)
    with pytest.raises(UserError, match=r"on_extraction=\[\]"):
        convert(input_path=str(tmp_path), forms=[], on_extraction=[], output_path=tmp_path)
    with pytest.raises(UserError, match=r"str neither saves .* nor shows"):
        convert(input_path=str(tmp_path), forms=[], on_extraction=["x"], output_path=tmp_path)  # pyright: ignore
