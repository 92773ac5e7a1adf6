"""One contract for every form that can be chosen; then what is special to single ones."""

import hashlib
import json
import logging
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from apps.convert import convert
from store import records, writing
from store.files import plain
from store.forms import Form, SaveNumpy, SavePickle
from store.provenance import software
from tests.helpers.saved_forms import Folder, options, run_ends, saving_forms
from utils.errors import MediaError, UserError
from utils.types import Features, Item, Show, Source

HOME = "clip/ViT-B_32"
NAMES = ["plain", "dog/000", "with space", "ünï 猫", "100%s 'a' \"b\" $x;*?[1]", "-dash.dot", "a_b", "d e/f%/g"]
FORMS = saving_forms()
# Beside every form, whether its run has ended: what `save_hdf5` saves lies somewhere else then.
CASES = [
    pytest.param(name, end, id=f"{name}{'-ended' * end}") for name, form in FORMS.items() for end in run_ends(form)
]
LOOSE = [case for case in CASES if not case.values[1]]

Make = Callable[..., Features]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out put"


@pytest.fixture
def folder(request: pytest.FixtureRequest, out: Path) -> Folder:
    option, ended = request.param
    return Folder(out, FORMS[option], gathered=ended)


def each_form(cases: list[Any]) -> pytest.MarkDecorator:
    params = [pytest.param(tuple(case.values), id=case.id) for case in cases]
    return pytest.mark.parametrize("folder", params, indirect=True)


def all_of(folder: Folder) -> bool:
    """Whether the form keeps all arrays."""
    return folder.forms[0] is not FORMS["save_xmodaler_video"]


def meta_file(out: Path, name: str = "dog/000") -> Path:
    return out / HOME / f"{name}_meta.json"


def meta(out: Path, name: str = "dog/000") -> dict[str, Any]:
    return json.loads(meta_file(out, name).read_text(encoding="utf-8"))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


def own_files(out: Path, form: Form, name: str = "dog/000") -> list[Path]:
    return [
        meta_file(out, name).with_name(k)
        for k, facts in meta(out, name)["files"].items()
        if facts.get("form") == form.name
    ]


def check_equal(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(found) == list(wanted) or set(found) == set(wanted)
    for key, array in wanted.items():
        assert (found[key].dtype, found[key].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[key], array)


def test_every_option_saves_or_shows() -> None:
    assert {"print", "save_hdf5", "save_npz", "save_numpy", "save_pickle", "save_xmodaler_video"} <= options().keys()
    for each in options().values():
        assert isinstance(each, Form) != isinstance(each, Show)
    assert len({form.name for form in FORMS.values()}) == len(FORMS)


# The contract


@each_form(CASES)
@pytest.mark.parametrize("name", NAMES)
def test_round_trip(folder: Folder, make: Make, name: str) -> None:
    features = make(name) if all_of(folder) else make(name, arrays={"clip": np.ones((3, 8), np.float32)})
    assert not folder.done(features)
    folder.save(features)
    assert folder.done(features)
    (found,) = folder.read()
    assert isinstance(found, Features)
    check_equal(found.arrays, features.arrays)
    assert (found.item, found.folder) == (features.item, HOME)
    assert found.settings == {"model": "ViT-B/32", "sampling": {"fps": 5, "range": [0, None]}, "paths": "x"}


@each_form(CASES)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int8", "int64", "bool", "uint8", "U5"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_dtypes_and_memory_orders(folder: Folder, make: Make, dtype: str, order: Any) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype, order=order)
    features = make("x", arrays={"clip": array} | ({"every_other": array[:, ::2]} if all_of(folder) else {}))
    try:
        folder.save(features)
    except (TypeError, ValueError):  # a form may have no place for texts
        assert dtype == "U5"
        assert files(folder.path) == []
        return
    assert folder.done(features)
    check_equal(folder.arrays()["x"], features.arrays)


@each_form(LOOSE)
def test_meta_tells_what_is_there(folder: Folder, make: Make) -> None:
    features = make("dog/000", predictions=[{"row": 0, "label": "猫", "logit": np.float32(0.5)}], warnings=("odd",))
    folder.save(features)
    found = meta(folder.path)
    inside: dict[str, Any] = {}
    for name, facts in found["files"].items():
        path = meta_file(folder.path).with_name(name)
        assert facts["bytes"] == path.stat().st_size
        each = facts.get("arrays", {facts.get("key", ""): facts}).items()
        inside |= {shown.get("key", key): shown for key, shown in each if "shape" in shown}
    assert (inside["clip"]["shape"], inside["clip"]["dtype"]) == ([3, 8], "float32")
    assert not all_of(folder) or inside["fps"]["shape"] == []
    assert found["item"] == "dog/000"
    assert found["settings"] == {"model": "ViT-B/32", "sampling": {"fps": 5, "range": [0, None]}, "paths": "x"}
    stat = features.item.path.stat()
    assert found["source"] == {"path": str(features.item.path), "size_bytes": 5, "mtime": stat.st_mtime}
    assert found["provenance"] == {"software": software(), "tool": "1", "damage": [], "warnings": ["odd"]}
    predictions = json.loads(meta_file(folder.path).with_name("000_predictions.json").read_text(encoding="utf-8"))
    assert predictions == [{"row": 0, "label": "猫", "logit": 0.5}]


@each_form(LOOSE)
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "longer", "other bytes", "a folder"])
def test_each_damaged_file_is_redone(folder: Folder, make: Make, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    features = make()
    folder.save(features)
    for path in own_files(folder.path, folder.forms[0]):
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
        assert not folder.done(features)
        assert path.name in caplog.text
        assert len(folder.read()) == 1
        assert isinstance(folder.read()[0], MediaError)
        if damage == "a folder":
            path.rmdir()
        folder.save(features)
        assert folder.done(features)


@each_form(LOOSE)
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"null", b'{"format": 1}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_meta_is_redone(folder: Folder, make: Make, content: bytes | None) -> None:
    features = make()
    folder.save(features)
    meta_file(folder.path).unlink()
    if content is not None:
        meta_file(folder.path).write_bytes(content)
    assert not folder.done(features)
    folder.save(features)
    assert folder.done(features)


@each_form(LOOSE)
@pytest.mark.parametrize("part", ["files", "settings", "source", "format", "provenance", "item"])
@pytest.mark.parametrize(
    "value", [None, 7, "x", [], {"a": 1}, {"000_clip.npy": {}}, {"../x.npy": {"form": "numpy"}}, {"x": {"form": []}}]
)
def test_a_meta_with_odd_content_is_never_an_exception(folder: Folder, make: Make, part: str, value: Any) -> None:
    features = make()
    folder.save(features)
    meta_file(folder.path).write_text(json.dumps(meta(folder.path) | {part: value}))
    fine = part == "provenance" and isinstance(value, dict)
    if part == "settings" and isinstance(value, dict):
        with pytest.raises(UserError, match="results of other settings"):
            folder.done(features)
    assert folder.done(features, overwrite=True) == fine
    assert len(folder.read()) == 1
    folder.save(features)
    assert folder.done(features)


@each_form(CASES)
def test_other_settings_are_refused_and_nothing_changes(folder: Folder, make: Make) -> None:
    features = make()
    folder.save(features)
    settings = {"model": "ViT-B/32", "sampling": {"fps": 2, "range": [0, None]}, "paths": "x"}
    message = (
        r"ViT-B_32: holds results of other settings \(there -> asked for: sampling\.fps: 5 -> 2\); none is replaced"
    )
    for ask in (
        lambda: folder.done(replace(features, settings=settings)),
        lambda: folder.store().check_place(HOME, "video", settings),
    ):
        with pytest.raises(UserError, match=message):
            ask()
    assert folder.done(features)
    folder.store().check_place(HOME, "video", plain(features.settings))
    folder.store(overwrite=True).check_place(HOME, "video", settings)


@each_form(CASES)
def test_more_of_the_same_settings_is_done_again_and_less_is_there(folder: Folder, make: Make) -> None:
    """A grid beside the global features, say: nothing is lost by it. One in place of the other would be."""
    arrays = {"clip": np.ones((3, 8), np.float32)}
    one, both, other = (
        make(arrays=arrays, settings=dict.fromkeys(keys, True)) for keys in (["global"], ["global", "grid"], ["grid"])
    )
    folder.save(one)
    assert not folder.done(both)
    folder.store().check_place(HOME, "video", both.settings)
    with pytest.raises(UserError, match=r"global: true -> \(not set\), grid: \(not set\) -> true"):
        folder.done(other)
    folder.save(both)
    assert [folder.done(each) for each in (one, both, other)] == [True] * 3


@each_form(CASES)
def test_with_overwrite_other_settings_are_redone_and_said_once(
    folder: Folder, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    old = [make("a"), make("b")]
    folder.save(*old)
    settings = {"model": "ViT-B/32", "sampling": {"fps": 2, "range": [0, None]}, "paths": "x"}
    new = [replace(features, settings=settings) for features in old]
    caplog.clear()
    caplog.set_level(logging.WARNING)
    store = folder.store(overwrite=True)
    assert [store.done(each.item, HOME, settings) for each in new] == [False, False]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "(sampling.fps: 5 -> 2)" in record.getMessage()
    assert [folder.done(features) for features in old] == [True, True]  # asking changes nothing
    folder.save(new[0])
    assert folder.done(new[0])
    assert not folder.done(old[0], overwrite=True)
    assert folder.done(old[1])


@each_form(CASES)
def test_settings_saved_beyond_todays_do_no_harm(folder: Folder, make: Make) -> None:
    folder.save(make())
    assert folder.done(make(settings={"model": "ViT-B/32"}))


@each_form(LOOSE)
def test_old_results_never_lie_under_a_new_record(folder: Folder, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the first of the new arrays: neither the old nor the new settings may count as done."""
    old = make(arrays={"clip": np.ones((3, 8), np.float32), "gone": np.ones(3)})
    folder.save(old)
    new = replace(make(), settings={"model": "other"})
    real, calls = os.replace, []

    def die(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        folder.save(new)
    monkeypatch.undo()
    assert not folder.done(old)
    assert not folder.done(new)
    assert len(files(folder.path)) == 1
    assert "gone" not in files(folder.path)[0]
    folder.save(new)
    assert folder.done(new)
    assert not [file for file in files(folder.path) if "gone" in file]


@each_form(LOOSE)
@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_killed_at_any_file_it_is_not_done_and_leaves_no_temp(
    folder: Folder, make: Make, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    features, real = make(), getattr(os, call)
    for at in range(1, 20):
        calls: list[Any] = []

        def die(*args: Any, at: int = at, calls: list[Any] = calls) -> None:
            calls.append(args)
            if len(calls) == at:
                raise KeyboardInterrupt
            real(*args)

        other = Folder(folder.path / str(at), *folder.forms)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, die)
            try:
                other.save(features)
            except KeyboardInterrupt:
                pass
            else:
                assert at > 2
                return
        # The folder's own fsync comes after the rename: then the last file is there already, whole.
        assert not other.done(features) or (call == "fsync" and "000_meta.json" in files(other.path))
        assert not [file for file in files(other.path) if file.endswith(".part")]
        other.save(features)
        assert other.done(features)
    raise AssertionError("never finished")


@each_form(CASES)
def test_a_changed_source_is_redone(folder: Folder, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    features = make()
    folder.save(features)
    source = features.item.path
    stat = source.stat()
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10_000_000))
    assert not folder.done(features)
    assert "has changed" in caplog.text
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert folder.done(features)
    source.write_bytes(b"longer video")
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert not folder.done(features)
    source.unlink()
    assert not folder.done(features)


@each_form(CASES)
def test_source_facts_from_before_reading_win(folder: Folder, make: Make) -> None:
    """A file that changed while it was read must not count as done."""
    arrays = {"clip": np.ones((3, 8), np.float32)}
    features = make(source=Source("p", 4, 1.0), provenance={"rule": "all"}, damage=("lost",), arrays=arrays)
    folder.save(replace(features, source=Source(str(features.item.path), 4, 1.0)))
    assert not folder.done(features)
    (found,) = folder.read()
    assert isinstance(found, Features)
    assert found.source == Source(str(features.item.path), 4, 1.0)
    assert found.provenance == {"software": software(), "rule": "all"}
    assert (found.damage, found.warnings) == (("lost",), ())


@each_form(CASES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_never_saved(folder: Folder, make: Make, bad: float) -> None:
    array = np.ones((3, 8), np.float32)
    array[1, 5] = bad
    with pytest.raises(MediaError, match=r"'clip' holds 1 of 24 values .* first in row 1"):
        folder.save(make(arrays={"clip": array}))
    with pytest.raises(MediaError, match="'fps'"):
        folder.save(make(arrays={"fps": np.array(bad)}))
    with pytest.raises(MediaError, match="prediction"):
        folder.save(make(predictions=[{"logit": bad}]))
    assert files(folder.path) == []


@each_form(CASES)
@pytest.mark.parametrize("arrays", [{}, {"clip": np.zeros((0, 8), np.float32)}, {"clip": np.zeros((3, 0))}])
def test_empty_results_are_never_saved(folder: Folder, make: Make, arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(MediaError, match=r"000\.mp4"):
        folder.save(make(arrays=arrays))
    assert files(folder.path) == []


@each_form(CASES)
def test_python_objects_are_refused(folder: Folder, make: Make) -> None:
    with pytest.raises(ValueError, match="Python objects"):
        folder.save(make(arrays={"clip": np.array([{}, {}])}))
    assert files(folder.path) == []


@each_form(CASES)
@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x"])
@pytest.mark.parametrize("part", ["item", "folder"])
def test_nothing_is_written_outside_the_output_folder(
    folder: Folder, tmp_path: Path, make: Make, name: str, part: str
) -> None:
    features = make("x")
    features = replace(features, **{"item": {"item": Item(features.item.path, name)}, "folder": {"folder": name}}[part])
    with pytest.raises(UserError, match="outside"):
        folder.save(features)
    with pytest.raises(UserError, match="outside"):
        folder.done(features)
    assert files(tmp_path) == ["x.mp4"]


@each_form(CASES)
def test_another_input_of_the_same_name_is_refused(folder: Folder, make: Make) -> None:
    features = make("dog")
    folder.save(features)
    photo = features.item.path.with_suffix(".jpg")
    photo.write_bytes(b"photo")
    with pytest.raises(MediaError, match=r"dog\.jpg: .*already holds results of .*dog\.mp4"):
        folder.save(replace(features, item=Item(photo, "dog")))
    moved = features.item.path.parent / "moved" / features.item.path.name
    moved.parent.mkdir()
    moved.write_bytes(b"the same video, newer")
    folder.save(replace(features, item=Item(moved, "dog")))
    assert folder.done(replace(features, item=Item(moved, "dog")))


@each_form(CASES)
def test_a_text_that_changed_is_done_again(folder: Folder, make: Make) -> None:
    item = Item(make("captions").item.path, "17", ("a cat", "a dog", "two dogs"))
    features = Features(item, f"{HOME}_texts", {"clip": np.ones((3, 8), np.float32)}, {})
    folder.save(features)
    assert folder.done(features)
    assert not folder.done(replace(features, item=Item(item.path, "17", ("a cat", "a dog", "two cats"))))
    assert folder.done(replace(features, item=Item(Path("elsewhere.json"), "17", item.texts)))


@each_form(LOOSE)
def test_damaged_predictions_are_redone(folder: Folder, make: Make) -> None:
    features = make(predictions=[{"row": 0}])
    folder.save(features)
    meta_file(folder.path).with_name("000_predictions.json").write_bytes(b"[]")
    assert not folder.done(features)


@each_form(CASES)
def test_predictions_come_back(folder: Folder, make: Make) -> None:
    features = make(predictions=[{"row": 0, "label": "猫"}], arrays={"clip": np.ones((3, 8), np.float32)})
    folder.save(features)
    (found,) = folder.read()
    assert isinstance(found, Features)
    assert found.predictions == features.predictions


@each_form(CASES)
def test_a_full_disk_stops_with_one_line(folder: Folder, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing._Watched, "write", full)
    with pytest.raises(UserError, match="disk is full"):
        folder.save(make())
    assert files(folder.path) == []


@each_form(CASES)
def test_a_disk_that_is_read_only_stops_with_one_line(
    folder: Folder, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> None:
        raise OSError(30, "Read-only file system")

    features = make(arrays={"clip": np.ones((3, 8), np.float32)})
    folder.save(features)
    monkeypatch.setattr("utils.part_files._created", refused)
    with pytest.raises(UserError, match="not allowed to write there"):
        folder.save(make("other"))
    assert folder.done(features)
    assert isinstance(folder.read()[0], Features)


# Poisoned files cost one item

POISON: dict[str, dict[str, Any]] = {
    "a name outside": {"item": "../../evil"},
    "an absolute name": {"item": "/evil"},
    "no name": {"item": ""},
    "a name that is none": {"item": 7},
    "a NUL": {"item": "a\0b"},
    "a nan": {"settings": {"fps": float("nan")}},
    "no source": {"source": {}},
    "a source that is no path": {"source": {"path": 5}},
    "texts that are none": {"provenance": {"texts": 5}},
    "nothing": {"files": {}},
}


@each_form(LOOSE)
@pytest.mark.parametrize("poison", [*POISON, "facts", "bytes", "forged bytes", "a folder"])
def test_a_poisoned_item_costs_no_other(folder: Folder, make: Make, tmp_path: Path, poison: str, capsys: Any) -> None:
    for name in "abc":
        folder.save(make(name, arrays={"clip": np.ones((3, 8), np.float32)}))
    path, content = meta_file(folder.path, "b"), meta(folder.path, "b")
    (file,) = own_files(folder.path, folder.forms[0], "b")
    if poison in POISON:
        path.write_text(json.dumps(content | POISON[poison]))
    elif poison == "a folder":
        path.unlink()
        path.mkdir()
    elif poison == "bytes":
        file.write_bytes(b"no array")
    else:
        forged = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999,), }".ljust(
            128
        )
        if poison == "forged bytes":
            file.write_bytes(forged)
        facts = {"form": folder.forms[0].name, "bytes": file.stat().st_size, "shape": 7, "arrays": 7, "key": []}
        facts["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        path.write_text(json.dumps(content | {"files": {file.name: facts}}))
    into = tmp_path / "into"
    status = convert(
        input_path=str(folder.path), forms=list(FORMS.values()), on_extraction=[SaveNumpy()], output_path=into
    )
    assert sorted(Folder(into).arrays()) == ["a", "c"]
    assert (status, "2 done, 1 failed" in capsys.readouterr().err) == (1, True)
    assert not list(tmp_path.rglob("*evil*"))


# Several forms in one folder


@pytest.mark.parametrize(("first", "second"), [pytest.param(a, b, id=f"{a}-{b}") for a, b in permutations(FORMS, 2)])
def test_two_forms_share_the_folder_and_the_meta(out: Path, make: Make, first: str, second: str) -> None:
    features = make(predictions=[{"row": 0}])
    one, other, both = (Folder(out, *(FORMS[k] for k in names)) for names in ((first,), (second,), (first, second)))
    one.save(features)
    assert one.done(features)
    assert not other.done(features)  # not fooled by the files of the other
    assert not both.done(features)
    other.save(features)
    assert one.done(features)
    assert both.done(features)
    damaged = own_files(out, FORMS[second])[0]
    damaged.unlink()
    assert one.done(features)
    assert not other.done(features)
    other.save(features)
    assert both.done(features)
    both.end_run()
    assert both.done(features)
    assert not set(own_files(out, FORMS[first])) & set(own_files(out, FORMS[second]))
    one.save(replace(features, settings={"model": "other"}))
    assert one.done(replace(features, settings={"model": "other"}))


def test_all_forms_at_once_are_one_item_with_one_meta(out: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    everything, features, written = Folder(out, *FORMS.values()), make(), []
    real = records.write_record
    monkeypatch.setattr(records, "write_record", lambda *arguments: (written.append(arguments), real(*arguments)))
    everything.save(features)
    assert len(written) == 1
    assert everything.done(features)
    reads: list[Path] = []
    real_read = records.read_record
    monkeypatch.setattr(records, "read_record", lambda path: (reads.append(path), real_read(path))[1])
    assert everything.done(features)
    assert reads == [meta_file(out)]


def test_other_settings_take_the_other_form_away(out: Path, make: Make) -> None:
    features = make()
    numpy, pickled = Folder(out, SaveNumpy()), Folder(out, SavePickle())
    numpy.save(features)
    pickled.save(features)
    changed = replace(features, settings={"model": "other"})
    numpy.save(changed)
    assert not [name for name in files(out) if name.endswith(".pkl")]  # nobody could tell what they are
    assert numpy.done(changed)
    assert not pickled.done(changed)


@each_form(LOOSE)
def test_files_of_others_are_left_alone(folder: Folder, make: Make) -> None:
    features = make()
    folder.save(features)
    others = [meta_file(folder.path).with_name("notes.txt"), meta_file(folder.path).parent.parent / "secret.npy"]
    for other in others:
        other.write_bytes(b"mine")
    content = meta(folder.path)
    meta_file(folder.path).write_text(json.dumps(content | {"files": content["files"] | {"notes.txt": {}}}))
    folder.save(replace(features, settings={"model": "other"}))
    content = meta(folder.path)
    paths = {"../secret.npy": {}, "000_sub/x.npy": {}}
    meta_file(folder.path).write_text(json.dumps(content | {"files": content["files"] | paths}))
    folder.save(replace(features, settings={"model": "third"}))
    assert all(other.exists() for other in others)


def test_forms_that_write_the_same_file_are_refused(out: Path, make: Make) -> None:
    with pytest.raises(UserError, match=r"numpy and numpy both save 000_clip\.npy: choose one"):
        Folder(out, SaveNumpy(), SaveNumpy()).save(make())


# Single forms


@pytest.mark.parametrize("form", [SaveNumpy(), SavePickle()])
def test_two_items_that_share_a_file_name_are_refused(form: Form, out: Path, make: Make) -> None:
    """`dog` + `source_fps` and `dog_source` + `fps`."""
    first = make("dog", arrays={"clip": np.ones(3), "source_fps": np.array(25.0)})
    second = make("dog_source", arrays={"clip": np.ones(3), "fps": np.array(30.0)})
    folder = Folder(out, form)
    folder.save(first)
    with pytest.raises(MediaError, match="rename one"):
        folder.save(second)
    assert folder.done(first)
    assert not folder.done(second)


@pytest.mark.parametrize(("form", "suffix"), [(SaveNumpy(), ".npy"), (SavePickle(), ".pkl")])
@pytest.mark.parametrize("name", NAMES)
def test_names_of_files(form: Form, suffix: str, out: Path, make: Make, name: str) -> None:
    features = make(name)
    Folder(out, form).save(features)
    stem = Path(name).name
    assert files(out) == sorted([*(f"{stem}_{key}{suffix}" for key in features.arrays), f"{stem}_meta.json"])
    for key, array in features.arrays.items():
        path = out / HOME / f"{name}_{key}{suffix}"
        np.testing.assert_array_equal(np.load(path) if suffix == ".npy" else pickle.loads(path.read_bytes()), array)


def test_an_array_of_another_shape_or_dtype_is_redone(out: Path, make: Make) -> None:
    """Of exactly the same size on disk."""
    features, folder = make(), Folder(out, SaveNumpy())
    folder.save(features)
    path = meta_file(out).with_name("000_clip.npy")
    for array in (np.zeros((8, 3), np.float32), np.zeros((3, 8), np.int32)):
        size = path.stat().st_size
        np.save(path, array)
        assert path.stat().st_size == size
        assert not folder.done(features)


def test_numpy_headers_with_flipped_bytes_are_done_only_if_they_still_say_the_same(out: Path, make: Make) -> None:
    features, folder = make(), Folder(out, SaveNumpy())
    folder.save(features)
    path = meta_file(out).with_name("000_clip.npy")
    content, wanted, outcomes = path.read_bytes(), features.arrays["clip"], []
    random = np.random.default_rng(0)
    for _ in range(500):
        changed = bytearray(content)
        for position in random.integers(0, 128, random.integers(1, 4)):
            changed[position] = random.integers(0, 256)
        path.write_bytes(changed)
        try:
            found = np.load(path, allow_pickle=False)
            same = found.shape == wanted.shape and found.dtype == wanted.dtype and bool((found == wanted).all())
        except Exception:  # NumPy answers damage with a dozen of them
            same = False
        assert folder.done(features) == same, bytes(changed)
        outcomes.append(same)
    assert set(outcomes) == {True, False}  # a changed blank at the header's end changes nothing


def test_a_forged_pickle_is_never_opened(out: Path, make: Make, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "sprung"),))

    features, folder = make(), Folder(out, SavePickle())
    folder.save(features)
    path = meta_file(out).with_name("000_clip.pkl")
    path.write_bytes(pickle.dumps(Trap()))
    assert not folder.done(features)
    with pytest.raises(pickle.UnpicklingError, match="which is no array"):
        SavePickle().read(path, {"key": "clip"})
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match="holds list, which is no array"):
        SavePickle().read(path, {"key": "clip"})
    assert not (tmp_path / "sprung").exists()


def test_pickle_has_protocol_4(out: Path, make: Make) -> None:
    Folder(out, SavePickle()).save(make())
    assert meta_file(out).with_name("000_clip.pkl").read_bytes()[:2] == b"\x80\x04"


def test_records_of_the_first_version_have_no_keys(make: Make, out: Path) -> None:
    features, folder = make(), Folder(out, SaveNumpy())
    folder.save(features)
    lines = meta_file(out).read_text().splitlines()
    meta_file(out).write_text("\n".join(line for line in lines if '"key"' not in line))
    (found,) = folder.read()
    assert isinstance(found, Features)
    assert found.arrays.keys() == features.arrays.keys()


@pytest.mark.parametrize("given", [".", "../ViT-B_32"])
def test_results_stay_in_the_output_folder_wherever_the_input_is_named_from(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    Folder(tmp_path, SaveNumpy()).save(make())
    monkeypatch.chdir(tmp_path / HOME)
    (features,) = Folder(Path(given)).read([SaveNumpy()])
    assert isinstance(features, Features)
    assert features.folder == HOME


def test_an_own_hdf5_file_opens_with_plain_h5py(make: Make, out: Path) -> None:
    features = make()
    Folder(out, FORMS["save_hdf5"]).save(features)
    with h5py.File(meta_file(out).with_name("000.own.hdf5")) as file:
        assert set(file) == set(features.arrays)
