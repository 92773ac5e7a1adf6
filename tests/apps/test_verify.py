"""`--config-name verify`: every fault is found in every form; `repair=true` has exactly the bad ones done again."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from apps.verify import all_forms, verify
from store.captions import SaveCaptions
from store.forms import SaveNumpy
from tests.helpers.saved_forms import Folder, saving_forms
from tests.helpers.shared_data import ROOT
from utils.errors import UserError
from utils.types import Features, Item

FORMS = saving_forms() | {"save_captions": SaveCaptions()}
FOLDER = "clip/ViT-B_32"
SETTINGS = {
    **{"feature_type": "clip", "model_name": "ViT-B/32", "weights_sha256": "a" * 64, "damage": "none"},
    "sampling": {"rule": "AtFps", "fps": "25"},
}


def video(folder: Path, name: str, *, seed: int = 0, rows: int = 4) -> Features:
    """As a run makes them, of a file that is there."""
    source = folder / "in" / f"{name}.mp4"
    source.parent.mkdir(parents=True, exist_ok=True)
    if not source.exists():
        source.write_bytes(b"video")
    clip = np.random.default_rng(seed).normal(size=(rows, 8)).astype(np.float32)
    times = np.arange(rows) * 40.0
    arrays = {"clip": clip, "fps": np.array(25.0), "timestamps_ms": times, "source_timestamps_ms": times + 7}
    facts = {"rows": rows, "video": {"duration_seconds": rows / 25, "num_frames": rows}}
    return Features(Item(source, name), FOLDER, arrays, SETTINGS, facts)


def changed(features: Features, **arrays: np.ndarray) -> Features:
    return replace(features, arrays=features.arrays | arrays)


@pytest.fixture
def saved(tmp_path: Path) -> list[Features]:
    return [video(tmp_path, name, seed=k) for k, name in enumerate(("a", "sub/b", "c"))]


def found(folder: Path, **options: Any) -> list[tuple[str, str]]:
    """(kind, where and what), and the exit status has to agree."""
    report = folder.parent / "report.json"
    status = verify(input_path=str(folder), forms=all_forms(), report=str(report), **options)
    content = json.loads(report.read_bytes())
    assert status == int(not content["ok"]) == int(not all(each["warning"] for each in content["findings"]))
    assert content["counts"] == {
        kind: sum(each["kind"] == kind for each in content["findings"]) for kind in content["counts"]
    }
    return [(each["kind"], f"{each['path']}: {each['text']}") for each in content["findings"]]


@pytest.mark.parametrize("form", FORMS)
def test_all_is_well(saved: list[Features], tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    predictions = [{"timestamp_ms": k * 40.0, "caption": "a cat", "clip_s": 0.5} for k in range(4)]
    saved = [replace(each, predictions=predictions) for each in saved]
    Folder(tmp_path / "out", FORMS[form], gathered=True).save(*saved)
    assert found(tmp_path / "out") == []
    printed = capsys.readouterr().out
    assert printed.startswith(f"{tmp_path / 'out'}: 3 results, ")
    assert printed.endswith("\nall is well\n")


def test_every_form_is_among_those_that_are_read() -> None:
    assert {form.name for form in FORMS.values()} == {form.name for form in all_forms()}


@pytest.mark.parametrize("form", FORMS)
def test_a_changed_byte_is_found_in_every_form(saved: list[Features], tmp_path: Path, form: str) -> None:
    """In any of its files, but for an `.h5`, where only the arrays have checksums."""
    gathered = hasattr(FORMS[form], "gather")
    saved = [replace(each, predictions=[{"timestamp_ms": 0.0, "caption": "x"}] * 4) for each in saved]
    Folder(tmp_path / "out", FORMS[form], gathered=gathered).save(*saved)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and not path.name.endswith("_meta.json")]
    assert files
    for path in files:
        data = path.read_bytes()
        at = data.index(saved[0].arrays["clip"].tobytes()) if gathered else len(data) - 1
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        kinds = found(tmp_path / "out")
        assert [kind for kind, _ in kinds] == ["damaged file"]
        assert kinds[0][1].startswith(str(path))
        path.write_bytes(data)


def clip_file(folder: Path) -> Path:
    return folder / "clip" / "ViT-B_32" / "a_clip.npy"


def forge(folder: Path, **changes: Any) -> None:
    """Another content of the meta file of `a`."""
    meta = folder / "clip" / "ViT-B_32" / "a_meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_bytes()) | changes))


def another_shape(folder: Path) -> None:
    files = json.loads((folder / "clip" / "ViT-B_32" / "a_meta.json").read_bytes())["files"]
    forge(folder, files=files | {"a_clip.npy": files["a_clip.npy"] | {"shape": [4, 9]}})


def another_type(folder: Path) -> None:
    files = json.loads((folder / "clip" / "ViT-B_32" / "a_meta.json").read_bytes())["files"]
    forge(folder, files=files | {"a_clip.npy": files["a_clip.npy"] | {"dtype": "float64"}})


def evil(folder: Path) -> None:
    path = clip_file(folder)
    np.save(path, np.array([print], dtype=object), allow_pickle=True)
    facts = {"form": "numpy", "key": "clip", "shape": [1], "dtype": "object"}
    forge(folder, files={path.name: facts})


FAULTS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "no bytes": ("damaged file", lambda folder: clip_file(folder).write_bytes(b"")),
    "gone": ("missing file", lambda folder: clip_file(folder).unlink()),
    "cut": ("damaged file", lambda folder: os.truncate(clip_file(folder), 100)),
    "pickled": ("damaged file", evil),
    "shape": ("wrong shape", another_shape),
    "type": ("wrong shape", another_type),
    "no meta": ("no meta file", lambda folder: (folder / "clip" / "ViT-B_32" / "a_meta.json").unlink()),
    "empty meta": ("unreadable meta", lambda folder: (folder / "clip" / "ViT-B_32" / "a_meta.json").write_bytes(b"")),
    "forged": ("unreadable meta", lambda folder: forge(folder, settings={"sampling": {"rule": "AtFps"}})),
    "rows": ("wrong rows", lambda folder: forge(folder, provenance={"rows": 5})),
    "source": ("changed source", lambda folder: (folder.parent / "in" / "a.mp4").write_bytes(b"another")),
    "time": ("changed source", lambda folder: os.utime(folder.parent / "in" / "a.mp4", (0, 0))),
    "part": (
        "left over",
        lambda folder: (folder / "clip" / f".a_clip.npy.{'0' * 16}.part").write_bytes(b"half"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_files(saved: list[Features], tmp_path: Path, fault: str) -> None:
    kind, damage = FAULTS[fault]
    Folder(tmp_path / "out", SaveNumpy()).save(*saved)
    damage(tmp_path / "out")
    kinds = {each for each, _ in found(tmp_path / "out")} - {"other settings", "other weights"}
    assert kinds >= {kind}
    assert kinds <= {kind, "no meta file"}


NAN = np.full((4, 8), np.nan, np.float32)
ARRAYS: dict[str, tuple[str, dict[str, np.ndarray], dict[str, Any]]] = {
    "nan": ("not finite", {"clip": NAN}, {}),
    "steps": ("wrong times", {"timestamps_ms": np.array([0.0, 40, 80, 121])}, {}),
    "fps": ("wrong times", {"fps": np.array(-25.0)}, {}),
    "back": ("wrong times", {"timestamps_ms": np.array([0.0, 40, 80, 40]), "fps": np.array(0.0)}, {}),
    "source back": ("odd times", {"source_timestamps_ms": np.array([0.0, 40, 30, 90])}, {}),
    "differ": ("wrong rows", {"clip": np.eye(3, 8, dtype=np.float32)}, {}),
    "one value": ("constant", {"clip": np.zeros((4, 8), np.float32)}, {}),
    "total": ("wrong rows", {}, {"sampling": {"rule": "Total", "num_rows": 5}}),
    "header": ("few rows", {}, {"sampling": {"rule": "EveryFrame"}}),
}


@pytest.mark.parametrize("fault", ARRAYS)
def test_faults_of_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Such as an older version, or somebody else, might have saved."""
    kind, arrays, settings = ARRAYS[fault]
    monkeypatch.setattr("store.items.check_usable", lambda features: None)
    good, bad = video(tmp_path, "good"), changed(video(tmp_path, "bad", seed=1), **arrays)
    facts = {"rows": 4, "video": {"duration_seconds": 2.0, "num_frames": 50}} if fault == "header" else bad.provenance
    bad = replace(bad, settings=SETTINGS | settings, provenance=facts)
    Folder(tmp_path / "out", SaveNumpy()).save(good)
    Folder(tmp_path / "out" / "2", SaveNumpy()).save(bad)  # elsewhere: their settings may differ
    assert {each for each, _ in found(tmp_path / "out")} == {kind}


def test_stamps_that_start_anew_may_go_back(tmp_path: Path) -> None:
    features = changed(video(tmp_path, "a"), timestamps_ms=np.array([0.0, 40, 0, 40]))
    features = replace(features, settings=SETTINGS | {"sampling": {"rule": "EveryFrame"}})
    Folder(tmp_path / "out", SaveNumpy()).save(features)
    assert [kind for kind, _ in found(tmp_path / "out")] == ["odd times"]
    warning = "time stamps start anew at frame 2; joined on at 0.080 s"
    Folder(tmp_path / "out", SaveNumpy()).save(replace(features, warnings=(warning,)))
    assert found(tmp_path / "out") == []


def test_what_only_shows_among_others(tmp_path: Path) -> None:
    features = [video(tmp_path, f"{k}", seed=k) for k in range(6)]
    features[3] = replace(features[3], settings=SETTINGS | {"weights_sha256": "b" * 64})
    features[4] = replace(features[4], settings=SETTINGS | {"sampling": {"rule": "AtFps", "fps": "50/2"}})
    features[5] = replace(video(tmp_path, "5", seed=0), item=Item(features[5].item.path, "5"))
    twice = replace(features[1], item=Item(features[1].item.path, "again"))
    Folder(tmp_path / "out", SaveNumpy()).save(*features, twice)
    kinds = dict(found(tmp_path / "out"))
    assert set(kinds) == {"other weights", "other settings", "same source", "same features"}
    assert "3_meta.json: not as the 5 others: weights_sha256: aaa" in kinds["other weights"]
    assert kinds["other settings"].endswith("4_meta.json: not as the 5 others: sampling.fps: 25 -> 50/2")
    assert kinds["same source"].endswith("in/1.mp4: saved 2 times: as 1, again")
    assert kinds["same features"].endswith("2 sources, the same features: 0, 5")


def test_a_source_that_is_gone_is_no_fault(saved: list[Features], tmp_path: Path) -> None:
    Folder(tmp_path / "out", SaveNumpy()).save(*saved)
    shutil.rmtree(tmp_path / "in")
    assert [kind for kind, _ in found(tmp_path / "out")] == ["no source"] * 3


def test_bad_ones_are_queued_and_nothing_else(
    saved: list[Features], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Folder(tmp_path / "out", SaveNumpy())
    folder.save(*saved)
    home = tmp_path / "out" / "clip" / "ViT-B_32"
    clip_file(tmp_path / "out").write_bytes(b"")
    (home / "sub" / "b_fps.npy").unlink()
    saved[1].item.path.unlink()
    part = home / f".x.npy.{'0' * 16}.part"
    part.write_bytes(b"half")
    mine = home / "notes.txt"
    mine.write_text("mine")
    files = {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    found(tmp_path / "out", repair=True)
    printed = capsys.readouterr().out
    assert files - set((tmp_path / "out").rglob("*")) == {home / "a_meta.json", part}
    assert f"removed: {home / 'a_meta.json'}\n" in printed
    assert f"kept: {home / 'sub' / 'b_meta.json'}: its source is not there" in printed
    assert f"removed: {part}\n" in printed
    assert printed.endswith(
        "repair=true: 1 results queued: the command that made them, run again, does these and nothing else\n"
    )
    assert [folder.done(each) for each in saved] == [False, False, True]
    folder.save(saved[0])
    saved[1].item.path.write_bytes(b"video")
    folder.save(replace(saved[1]))
    assert found(tmp_path / "out") == []


def test_processes_at_work_and_those_that_are_gone(saved: list[Features], tmp_path: Path) -> None:
    Folder(tmp_path / "out", SaveNumpy()).save(*saved)
    locks, part = tmp_path / "out" / ".locks", tmp_path / "out" / f".x.npy.{'0' * 16}.part"
    locks.mkdir()
    (locks / "left").write_text("host1, process 7")
    with FileLock(locks / "held"), part.open("wb") as being_written:
        fcntl.flock(being_written, fcntl.LOCK_EX)
        assert [kind for kind, _ in found(tmp_path / "out")] == ["left over"]
        with pytest.raises(UserError, match=r"repair=true: .* is at work there: wait until it has ended"):
            verify(input_path=str(tmp_path / "out" / "clip"), forms=all_forms(), repair=True)
    part.unlink()
    found(tmp_path / "out", repair=True)
    assert not locks.exists()
    assert found(tmp_path / "out") == []


def test_an_interrupted_item_is_no_fault(saved: list[Features], tmp_path: Path) -> None:
    Folder(tmp_path / "out", SaveNumpy()).save(*saved)
    part = tmp_path / "out" / "clip" / "ViT-B_32" / ".parts" / ("0" * 32)
    part.mkdir(parents=True)
    (part / "0.npy").write_bytes(b"rows")
    assert [kind for kind, _ in found(tmp_path / "out")] == ["unfinished"]
    assert found(tmp_path / "out", repair=True)
    assert part.exists()


def test_many_findings_are_counted_and_the_first_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Folder(tmp_path / "out", SaveNumpy()).save(*(video(tmp_path, f"{k:02}", seed=k) for k in range(12)))
    for path in (tmp_path / "out").rglob("*_clip.npy"):
        path.unlink()
    verify(input_path=str(tmp_path / "out"), forms=all_forms(), num_listed=2)
    first, _, table, _, *listed = capsys.readouterr().out.splitlines()
    assert " 12 results, 48 files, " in first
    assert table == "problem  missing file  12"
    assert len(listed) == 3
    assert listed[-1] == "... and 10 more (report=FILE.json lists all)"


def test_an_archive_that_is_none(saved: list[Features], tmp_path: Path) -> None:
    Folder(tmp_path / "out", FORMS["save_hdf5"], gathered=True).save(*saved)
    (archive,) = (tmp_path / "out").rglob("*.h5")
    archive.write_bytes(archive.read_bytes()[:300])
    ((kind, text),) = found(tmp_path / "out")
    assert (kind, text.startswith(f"{archive}: no HDF5 file, or damaged")) == ("damaged file", True)


def test_sources_are_read_again_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("v_GGSY1Qvo990.mp4", "cat.jpg"):
        shutil.copy(ROOT / "sample" / name, tmp_path / "in" / name)
    sampling = {"rule": "AtFps", "fps": "2"}
    good = replace(video(tmp_path, "v_GGSY1Qvo990", rows=16), settings=SETTINGS | {"sampling": sampling})
    good = replace(changed(good, fps=np.array(2.0), timestamps_ms=np.arange(16) * 500.0), provenance={"rows": 16})
    path = tmp_path / "in" / "cat.jpg"
    facts = {"rows": 1, "image": {"frames": 1}}
    settings = {key: value for key, value in SETTINGS.items() if key != "sampling"}
    image = Features(Item(path, "cat"), FOLDER, {"clip": np.arange(8, dtype=np.float32)[None]}, settings, facts)
    folder = Folder(tmp_path / "out", SaveNumpy())
    folder.save(good, image)
    assert found(tmp_path / "out", decode=True) == []
    fewer = video(tmp_path, "v_GGSY1Qvo990", rows=15)
    folder.save(replace(fewer, settings=SETTINGS | {"sampling": {"rule": "AtFps", "fps": "2"}, "x": 1}))
    assert ("wrong recount", "15 rows") in [
        (kind, text.split(": ")[1][:7]) for kind, text in found(tmp_path / "out", decode=True)
    ]


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"expected a folder with saved features \(\*_meta\.json, \*\.h5\)"):
        verify(input_path=str(tmp_path), forms=all_forms())
    with pytest.raises(UserError, match="repair=yes: expected true or false"):
        verify(input_path=str(tmp_path), forms=all_forms(), repair="yes")  # pyright: ignore
