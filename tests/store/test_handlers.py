"""One contract for every handler that saves; then what is special to one form or to both together."""

import json
import logging
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store.handlers import SaveNumpy, SavePickle

from store import item_files
from utils.errors import MediaError, UserError
from utils.types import Features, Handler, Item

FOLDER = "clip/ViT-B_32"
SAVING = {".npy": SaveNumpy, ".pkl": SavePickle}
NAMES = ["plain", "dog/000", "with space", "ünï 猫", "100%s 'a' \"b\" $x;*?[1]", "-dash.dot", "a_b", "d e/f%/g"]

Make = Callable[..., Features]


@pytest.fixture(params=SAVING)
def suffix(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out put"


@pytest.fixture
def save(suffix: str, out: Path) -> Handler:
    return SAVING[suffix](out)


def done(handler: Handler, features: Features) -> bool:
    return handler.done(features.item, features.folder, features.settings)


def home(out: Path, features: Features) -> Path:
    return (out / features.folder / features.item.name).parent


def meta(out: Path, features: Features) -> dict[str, Any]:
    return json.loads((out / FOLDER / f"{features.item.name}_meta.json").read_text(encoding="utf-8"))


def load(path: Path) -> np.ndarray:
    return np.load(path) if path.suffix == ".npy" else pickle.loads(path.read_bytes())


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


# The contract


@pytest.mark.parametrize("name", NAMES)
def test_round_trip(save: Handler, out: Path, make: Make, suffix: str, name: str) -> None:
    features = make(name)
    assert not done(save, features)
    save(features)
    assert done(save, features)
    stem = Path(name).name
    assert files(out) == sorted([*(f"{stem}_{key}{suffix}" for key in features.arrays), f"{stem}_meta.json"])
    for key, array in features.arrays.items():
        found = load(out / FOLDER / f"{name}_{key}{suffix}")
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int8", "int64", "bool", "uint8", "U5"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_dtypes_and_memory_orders(save: Handler, out: Path, make: Make, suffix: str, dtype: str, order: Any) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype, order=order)
    features = make("x", arrays={"clip": array, "every_other": array[:, ::2]})
    save(features)
    assert done(save, features)
    for key, wanted in features.arrays.items():
        found = load(out / FOLDER / f"x_{key}{suffix}")
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


def test_meta_tells_what_is_there(save: Handler, out: Path, make: Make, suffix: str) -> None:
    features = make("dog/000", predictions=[{"row": 0, "label": "猫", "logit": np.float32(0.5)}])
    save(features)
    found = meta(out, features)
    facts = found["files"][f"000_clip{suffix}"]
    assert (facts["shape"], facts["dtype"]) == ([3, 8], "float32")
    assert facts["bytes"] == (home(out, features) / f"000_clip{suffix}").stat().st_size
    assert found["files"][f"000_fps{suffix}"]["shape"] == []
    assert found["item"] == "dog/000"
    assert found["settings"] == {"model": "ViT-B/32", "sampling": {"fps": 5, "range": [0, None]}, "paths": "x"}
    stat = features.item.path.stat()
    assert found["source"] == {"path": str(features.item.path), "size_bytes": 5, "mtime": stat.st_mtime}
    assert found["provenance"] == {"tool": "1"}
    predictions = json.loads((home(out, features) / "000_predictions.json").read_text(encoding="utf-8"))
    assert predictions == [{"row": 0, "label": "猫", "logit": 0.5}]


@pytest.mark.parametrize("key", ["clip", "fps", "timestamps_ms"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "longer", "other bytes", "a folder"])
def test_damaged_arrays_are_redone(
    save: Handler, out: Path, make: Make, suffix: str, key: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    features = make()
    save(features)
    path = home(out, features) / f"000_{key}{suffix}"
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "missing":
        changed = {
            "truncated": content[:-1],
            "empty": b"",
            "longer": content + b"\0",
            "other bytes": b"x" * len(content),
        }
        path.write_bytes(changed[damage])
    assert not done(save, features)
    assert path.name in caplog.text
    if damage != "a folder":
        save(features)
        assert done(save, features)


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"null", b'{"format": 1}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_meta_is_redone(save: Handler, out: Path, make: Make, content: bytes | None) -> None:
    features = make()
    save(features)
    path = home(out, features) / "000_meta.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert not done(save, features)
    save(features)
    assert done(save, features)


@pytest.mark.parametrize("part", ["files", "settings", "source", "format", "provenance"])
@pytest.mark.parametrize("value", [None, 7, "x", [], {"a": 1}, {"000_clip.npy": {}, "000_clip.pkl": {}}])
def test_a_meta_with_odd_content_is_never_an_exception(
    save: Handler, out: Path, make: Make, part: str, value: Any
) -> None:
    features = make()
    save(features)
    path = home(out, features) / "000_meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {part: value}))
    assert done(save, features) == (part == "provenance" and isinstance(value, dict))
    save(features)
    assert done(save, features)


def test_other_settings_are_redone_and_said_once(
    save: Handler, out: Path, make: Make, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    old = [make("a"), make("b")]
    for features in old:
        save(features)
    settings = old[0].settings | {"sampling": {"fps": 2, "range": [0, None]}}
    new = [replace(features, settings=settings) for features in old]
    assert [done(save, features) for features in new] == [False, False]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "(sampling.fps: 5 -> 2)" in record.getMessage()
    assert [done(save, features) for features in old] == [True, True]  # asking changes nothing
    save(new[0])
    assert done(save, new[0])
    assert not done(save, old[0])


def test_old_results_never_lie_under_a_new_record(
    save: Handler, out: Path, make: Make, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the first of the new arrays: neither the old nor the new settings may count as done."""
    old = make(arrays={"clip": np.ones((3, 8), np.float32), "gone": np.ones(3)})
    save(old)
    new = replace(make(), settings={"model": "other"})
    real, calls = os.replace, []

    def die(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        save(new)
    monkeypatch.undo()
    assert not done(save, old)
    assert not done(save, new)
    assert files(out) == [f"000_clip{suffix}"]
    save(new)
    assert done(save, new)
    assert f"000_gone{suffix}" not in files(out)


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("at", range(1, 5))
def test_killed_at_any_file_it_is_not_done_and_leaves_no_temp(
    save: Handler, out: Path, make: Make, monkeypatch: pytest.MonkeyPatch, call: str, at: int
) -> None:
    features = make()
    real, calls = getattr(os, call), []

    def die(*args: Any) -> None:
        calls.append(args)
        if len(calls) == at:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(os, call, die)
    with pytest.raises(KeyboardInterrupt):
        save(features)
    monkeypatch.undo()
    assert not done(save, features)
    assert not [name for name in files(out) if name.endswith(".part")]
    save(features)
    assert done(save, features)


def test_a_changed_source_is_redone(save: Handler, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    features = make()
    save(features)
    source = features.item.path
    stat = source.stat()
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10_000_000))
    assert not done(save, features)
    assert "has changed" in caplog.text
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert done(save, features)
    source.write_bytes(b"longer video")
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert not done(save, features)
    source.unlink()
    assert not done(save, features)


def test_source_facts_from_before_reading_win(save: Handler, out: Path, make: Make) -> None:
    """A file that changed while it was read must not count as done."""
    features = make(provenance={"source": {"path": "p", "size_bytes": 4, "mtime": 1.0}, "rule": "all"})
    save(features)
    assert not done(save, features)
    assert meta(out, features)["source"] == {"path": "p", "size_bytes": 4, "mtime": 1.0}
    assert meta(out, features)["provenance"] == {"rule": "all"}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_never_saved(save: Handler, out: Path, make: Make, bad: float) -> None:
    array = np.ones((3, 8), np.float32)
    array[1, 5] = bad
    with pytest.raises(MediaError, match=r"'clip' holds 1 of 24 values .* first in row 1"):
        save(make(arrays={"clip": array}))
    with pytest.raises(MediaError, match="'fps'"):
        save(make(arrays={"fps": np.array(bad)}))
    with pytest.raises(MediaError, match="prediction"):
        save(make(predictions=[{"logit": bad}]))
    assert "000_meta.json" not in files(out)


@pytest.mark.parametrize("arrays", [{}, {"clip": np.zeros((0, 8), np.float32)}, {"clip": np.zeros((3, 0))}])
def test_empty_results_are_never_saved(save: Handler, out: Path, make: Make, arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(MediaError, match=r"000\.mp4"):
        save(make(arrays=arrays))
    assert files(out) == []


def test_python_objects_are_refused(save: Handler, out: Path, make: Make) -> None:
    with pytest.raises(ValueError, match="Python objects"):
        save(make(arrays={"clip": np.array([{}, {}])}))
    assert files(out) == []


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x"])
def test_nothing_is_written_outside_the_output_folder(save: Handler, tmp_path: Path, make: Make, name: str) -> None:
    features = replace(make("x"), item=Item(make("x").item.path, name))
    with pytest.raises(UserError, match="outside"):
        save(features)
    assert files(tmp_path) == ["x.mp4"]


def test_two_items_that_share_a_file_name_are_refused(save: Handler, out: Path, make: Make) -> None:
    """`dog` + `source_fps` and `dog_source` + `fps`."""
    first = make("dog", arrays={"clip": np.ones(3), "source_fps": np.array(25.0)})
    second = make("dog_source", arrays={"clip": np.ones(3), "fps": np.array(30.0)})
    save(first)
    with pytest.raises(MediaError, match="rename one"):
        save(second)
    assert done(save, first)
    assert not done(save, second)


def test_damaged_predictions_are_redone(save: Handler, out: Path, make: Make) -> None:
    features = make(predictions=[{"row": 0}])
    save(features)
    (home(out, features) / "000_predictions.json").write_bytes(b"[]")
    assert not done(save, features)


def test_a_full_disk_stops_with_one_line(save: Handler, out: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(item_files._HashedFile, "write", full)
    with pytest.raises(UserError, match="disk is full"):
        save(make())
    assert files(out) == []


def test_an_array_of_another_shape_or_dtype_is_redone(out: Path, make: Make) -> None:
    """Of exactly the same size on disk."""
    features = make()
    handler = SaveNumpy(out)
    handler(features)
    path = home(out, features) / "000_clip.npy"
    for array in (np.zeros((8, 3), np.float32), np.zeros((3, 8), np.int32)):
        size = path.stat().st_size
        np.save(path, array)
        assert path.stat().st_size == size
        assert not done(handler, features)


# Both forms in one folder


def test_two_forms_share_the_folder_and_the_meta(out: Path, make: Make) -> None:
    features = make(predictions=[{"row": 0}])
    numpy, pickled = SaveNumpy(out), SavePickle(out)
    numpy(features)
    assert done(numpy, features)
    assert not done(pickled, features)  # not fooled by the files of the other
    pickled(features)
    assert done(numpy, features)
    assert done(pickled, features)
    assert len(meta(out, features)["files"]) == 7
    (home(out, features) / "000_clip.pkl").unlink()
    assert done(numpy, features)
    assert not done(pickled, features)
    pickled(features)
    assert done(numpy, features)
    assert done(pickled, features)


def test_other_settings_take_the_other_form_away(out: Path, make: Make) -> None:
    features = make()
    numpy, pickled = SaveNumpy(out), SavePickle(out)
    numpy(features)
    pickled(features)
    changed = replace(features, settings={"model": "other"})
    numpy(changed)
    assert not [name for name in files(out) if name.endswith(".pkl")]  # nobody could tell what they are
    assert done(numpy, changed)
    assert not done(pickled, changed)


def test_files_of_others_are_left_alone(save: Handler, out: Path, make: Make) -> None:
    features = make()
    save(features)
    path = home(out, features) / "000_meta.json"
    content = json.loads(path.read_text())
    content["files"] |= {"notes.txt": {}, "../secret.npy": {}, "000_sub/x.npy": {}}
    path.write_text(json.dumps(content))
    others = [home(out, features) / "notes.txt", home(out, features).parent / "secret.npy"]
    for other in others:
        other.write_bytes(b"mine")
    save(replace(features, settings={"model": "other"}))
    assert all(other.exists() for other in others)


def test_a_forged_pickle_is_never_opened(out: Path, make: Make, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "sprung"),))

    features = make()
    handler = SavePickle(out)
    handler(features)
    (home(out, features) / "000_clip.pkl").write_bytes(pickle.dumps(Trap()))
    assert not done(handler, features)
    assert not (tmp_path / "sprung").exists()


def test_pickle_has_protocol_4(out: Path, make: Make) -> None:
    features = make()
    SavePickle(out)(features)
    assert (home(out, features) / "000_clip.pkl").read_bytes()[:2] == b"\x80\x04"


def test_numpy_headers_with_flipped_bytes_are_never_an_exception(out: Path, make: Make) -> None:
    features = make()
    handler = SaveNumpy(out)
    handler(features)
    path = home(out, features) / "000_clip.npy"
    content = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(500):
        changed = bytearray(content)
        for position in random.integers(0, 128, random.integers(1, 4)):
            changed[position] = random.integers(0, 256)
        path.write_bytes(changed)
        assert done(handler, features) in (True, False)
