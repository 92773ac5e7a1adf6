"""One file for all items: what goes in comes out, whatever happens when it is written."""

import errno
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from apps.convert import convert
from store import gathering, hdf5
from store.forms import SaveNpz, SaveNumpy
from store.hdf5 import SaveHdf5
from store.items import Store
from store.ledger import Ledger
from tests.helpers.saved_forms import Folder
from utils.errors import MediaError, UserError
from utils.types import Features, Item

Make = Callable[..., Features]
NAMES = ["plain", "dog/000", "with space", "ünï 猫", "a_b", "-dash.dot"]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """In which every save is a whole run."""
    return Folder(tmp_path / "out", SaveHdf5(), gathered=True)


def file_of(out: Path) -> Path:
    return out / "clip" / "ViT-B_32.h5"


def contents(out: Path) -> dict[str, float]:
    """Every item, in the one file or its own, with the first number of its features."""
    return {name: float(arrays["clip"].flat[0]) for name, arrays in Folder(out).arrays().items()}


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("name", NAMES)
def test_groups_and_attributes(make: Make, folder: Folder, name: str) -> None:
    features = make(name, predictions=[{"labels": ["a"], "timestamp_ms": 0.0}])
    folder.save(features)
    assert files(folder.path) == ["clip", "clip/ViT-B_32.h5"]  # nothing of its own is left
    with h5py.File(file_of(folder.path)) as file:
        assert file.attrs["folder"] == "clip/ViT-B_32"
        group: Any = file[name]
        assert set(group.attrs) == {"record", "predictions"}
        for key, array in features.arrays.items():
            assert group[key].dtype == array.dtype
            np.testing.assert_array_equal(group[key][()], array)


def test_items_gather_in_one_file_and_are_done_again_one_by_one(make: Make, folder: Folder) -> None:
    items = [make(name) for name in NAMES]
    folder.save(*items[:4])
    folder.save(*items[4:])
    changed = make("a_b", settings=items[0].settings | {"model": "other"})
    with pytest.raises(UserError, match="model: ViT-B/32 -> other"):
        folder.done(changed)
    folder.save(changed)
    assert folder.done(changed)
    assert not folder.done(items[NAMES.index("a_b")], overwrite=True)
    assert all(folder.done(features) for features in items if features.item.name != "a_b")
    assert sorted(contents(folder.path)) == sorted(NAMES)
    Path(items[0].item.path).write_bytes(b"another video")
    assert not folder.done(items[0])


def test_a_file_does_not_grow_when_items_are_done_again(make: Make, folder: Folder) -> None:
    big = {"clip": np.random.default_rng(0).normal(size=(100, 1000))}
    folder.save(make("a", arrays=big))
    size = file_of(folder.path).stat().st_size
    for number in range(3):
        folder.save(make("a", arrays=big, settings={"run": number}))
    assert file_of(folder.path).stat().st_size == pytest.approx(size, rel=0.01)


def test_what_others_put_into_the_file_stays(make: Make, folder: Folder) -> None:
    folder.save(make("a"))
    with h5py.File(file_of(folder.path), "r+") as file:
        file["mine/numbers"], file["mine"].attrs["unit"] = np.arange(5), "m"
        file["a"].attrs["note"], file.attrs["title"] = "good", "mine"
    folder.save(make("a", settings={"model": "other"}), make("b"))
    with h5py.File(file_of(folder.path)) as file:
        np.testing.assert_array_equal(file["mine/numbers"], np.arange(5))  # pyright: ignore
        found = file["mine"].attrs["unit"], file["a"].attrs["note"], file.attrs["title"]
        assert found == ("m", "good", "mine")


def test_items_below_items(make: Make, folder: Folder) -> None:
    folder.save(make("a"))
    folder.save(make("a/b"))
    folder.save(make("a", settings={"model": "other"}))
    assert sorted(contents(folder.path)) == ["a", "a/b"]
    folder.save(make("c/fps"))
    for name, message in (("a/clip", "is taken by another item's array"), ("c", "c/fps is taken by another item")):
        store = folder.store()
        store.save(make(name))
        ledger = folder.end_run(store)
        assert ({entry.status for entry in ledger.entries}, ledger.exit_status) == ({"failed"}, 1)
        assert any(message in entry.reason for entry in ledger.entries)
        assert folder.done(make(name))  # in its own file still
    assert sorted(contents(folder.path)) == ["a", "a/b", "a/clip", "c", "c/fps"]


def test_two_new_items_that_want_the_same_name(make: Make, folder: Folder) -> None:
    store = folder.store()
    for name in ("a", "a/clip", "z"):
        store.save(make(name))
    assert [entry.status for entry in folder.end_run(store).entries] == ["failed"]
    assert sorted(contents(folder.path)) == ["a", "a/clip", "z"]


def test_records_may_be_long(make: Make, folder: Folder) -> None:
    features = make(provenance={"texts": ["a long text " * 50] * 1000})
    folder.save(features)
    assert folder.done(features)


def test_nothing_worth_saving(make: Make, folder: Folder) -> None:
    with pytest.raises(MediaError, match="nan or infinite"):
        folder.save(make(arrays={"clip": np.full((2, 3), np.nan, np.float32)}))
    folder.end_run()
    assert not file_of(folder.path).exists()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
def test_a_whole_file_that_cannot_be_read_now_is_not_called_damaged(
    make: Make, folder: Folder, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path, opened = file_of(folder.path), Path.open
    folder.save(make("a"))

    def fail(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise OSError(number, os.strerror(number), str(path))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(UserError, match="cannot be read now") as caught:
        folder.done(make("a"))
    assert "move it" not in str(caught.value)
    monkeypatch.undo()
    assert folder.done(make("a"))


@pytest.mark.parametrize("found", ["text", "cut", "a folder"])
def test_a_file_that_is_no_hdf5_is_left_alone(make: Make, folder: Folder, found: str) -> None:
    path = file_of(folder.path)
    folder.save(make("a"))
    whole = path.read_bytes()
    path.unlink()
    if found == "a folder":
        path.mkdir()
    else:
        path.write_bytes(b"text" * 100 if found == "text" else whole[: len(whole) // 2])
    with pytest.raises(UserError, match="no HDF5 file, or damaged"):
        folder.done(make("a"))
    (told,) = folder.read()
    assert "no HDF5 file, or damaged" in str(told)
    with pytest.raises(UserError, match="no HDF5 file, or damaged"):
        folder.save(make("b"))
    assert path.is_dir() or path.read_bytes() in (b"text" * 100, whole[: len(whole) // 2])


@pytest.mark.parametrize("damage", ["record", "missing", "bytes"])
def test_one_damaged_item_is_told_and_the_rest_is_read(make: Make, folder: Folder, damage: str) -> None:
    folder.save(*(make(name, arrays={"clip": np.full((3, 8), k, np.float32)}) for k, name in enumerate("abc")))
    with h5py.File(file_of(folder.path), "r+") as file:
        group: Any = file["b"]
        if damage == "record":
            group.attrs["record"] = "{"
        elif damage == "missing":
            del group["clip"]
        else:
            group["clip"][1, 2] = 7.0
    assert [folder.done(make(name)) for name in "abc"] == [True, False, True]
    found = folder.read()
    assert [each.item.name for each in found if isinstance(each, Features)] == ["a", "c"]
    assert "b is damaged" in str(found[1])
    folder.save(make("b"))
    assert [folder.done(make(name)) for name in "abc"] == [True, True, True]


def test_a_damaged_own_file_costs_no_older_result(make: Make, folder: Folder) -> None:
    folder.save(make("a"), make("b"))
    store = folder.store()
    for name in "abc":
        store.save(make(name, settings={"model": "other"}))
    own = folder.path / "clip" / "ViT-B_32" / "a.own.hdf5"
    own.write_bytes(own.read_bytes()[:-5])
    ledger = folder.end_run(store)
    assert ["a.own.hdf5: not what its meta file says" in entry.reason for entry in ledger.entries] == [True]
    assert [folder.done(make(name, settings={"model": "other"})) for name in "abc"] == [False, True, True]
    with h5py.File(file_of(folder.path)) as file:
        assert set(file) == {"a", "b", "c"}


def test_other_openings_in_this_process_do_not_hide_new_items(make: Make, folder: Folder) -> None:
    first, second = folder.store(), Store(folder.path, [SaveHdf5()])
    folder.save(make("x"))
    assert first.done(make("x").item, "clip/ViT-B_32", {"model": "ViT-B/32"})
    folder.save(make("y"))
    for store in (first, second):
        assert store.done(make("y").item, "clip/ViT-B_32", {"model": "ViT-B/32"})
    with h5py.File(file_of(folder.path)) as file:
        assert set(file) == {"x", "y"}


def test_saving_into_the_file_that_is_being_read(make: Make, folder: Folder) -> None:
    folder.save(make("a"), make("b"))
    found = []
    for item in SaveHdf5().items(file_of(folder.path)):
        folder.save(make(f"new{len(found)}"))
        found.append(item.item.name if isinstance(item, Features) else item)
    assert found == ["a", "b"]
    assert len(contents(folder.path)) == 4


def test_converting_twice_into_the_same_folder(make: Make, tmp_path: Path) -> None:
    Folder(tmp_path, SaveNumpy()).save(make())
    forms, before = [SaveNumpy(), SaveHdf5()], files(tmp_path)
    for _ in range(2):
        assert convert(input_path=str(tmp_path), forms=forms, on_extraction=[SaveHdf5()], output_path=tmp_path) == 0
    assert set(files(tmp_path)) - set(before) == {"clip/ViT-B_32.h5", "ledger.jsonl"}
    assert Folder(tmp_path, SaveNumpy(), SaveHdf5()).done(make())


def test_a_renamed_file_keeps_its_feature_type(
    make: Make, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.save(make())
    file_of(folder.path).rename(tmp_path / "mine.h5")
    monkeypatch.chdir(tmp_path)
    assert convert(input_path="mine.h5", forms=[SaveHdf5()], on_extraction=[SaveNpz()], output_path="npz") == 0
    assert "g_feature" in np.load(tmp_path / "npz" / "clip" / "ViT-B_32" / "dog" / "000.npz").files


def test_a_name_that_is_not_utf8(make: Make, folder: Folder) -> None:
    features = make(os.fsdecode(b"caf\xe9"))
    folder.save(features)
    assert folder.done(features)
    assert list(contents(folder.path)) == [features.item.name]


def test_arrays_without_dimensions_stay_arrays(make: Make, folder: Folder) -> None:
    folder.save(make())
    (arrays,) = folder.arrays().values()
    assert all(isinstance(array, np.ndarray) for array in arrays.values())


def run_into(error: BaseException, store: Store, features: Features) -> None:
    with store.session(Ledger(None, settings={})):
        store.save(features)
        raise error


def test_ctrl_c_gathers_what_is_done_and_a_full_disk_does_not(make: Make, folder: Folder) -> None:
    for error, gathered in ((KeyboardInterrupt(), True), (UserError("full"), False), (MediaError("bad"), True)):
        with pytest.raises(type(error)):
            run_into(error, folder.store(), make(type(error).__name__))
        with h5py.File(file_of(folder.path)) as file:
            assert (type(error).__name__ in file) == gathered
    assert len(contents(folder.path)) == 3


@pytest.mark.parametrize("room", [0, 100, 5_000, 60_000, 130_000])
def test_a_full_disk_leaves_everything_as_it_was(make: Make, folder: Folder, room: int) -> None:
    """`room` bytes can be written to one file, by a limit of the system; one item needs 80 kB."""
    big = {"clip": np.arange(20_000, dtype=np.float32).reshape(10, 2000)}
    folder.save(make("old", arrays=big))
    old, store = file_of(folder.path).read_bytes(), folder.store()
    store.save(make("new", arrays=big))
    before = files(folder.path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))  # Python ignores SIGXFSZ: writing fails with EFBIG
    try:
        with pytest.raises(UserError, match=r"ViT-B_32\.h5: could not be written, the disk is full"):
            folder.end_run(store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file_of(folder.path).read_bytes() == old
    assert files(folder.path) == before
    assert folder.done(make("old", arrays=big))
    assert folder.done(make("new", arrays=big))
    folder.end_run()
    assert files(folder.path) == ["clip", "clip/ViT-B_32.h5"]


class Killed(BaseException):
    pass


def kill_at(number: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The process ends before step `number` of everything that reaches the disk, and cleans up nothing."""
    steps: list[int] = []

    def stepped(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if len(steps) >= number:
                raise Killed
            steps.append(1)
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(hdf5._Disk, "write", stepped(hdf5._Disk.write))
    for name in ("fsync", "replace", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, stepped(getattr(os, name)))
    monkeypatch.setattr(Path, "unlink", stepped(Path.unlink))
    return steps


@pytest.mark.parametrize("beside", [False, True])
def test_a_kill_at_any_step_costs_no_item(make: Make, tmp_path: Path, beside: bool) -> None:
    """Also with another form beside it, which keeps the meta files."""
    arrays = {"clip": np.arange(4_000, dtype=np.float32).reshape(10, 400)}
    wanted = {f"before{k}": float(k) for k in range(2)} | {"last": 7.0, "last2": 8.0}
    for number in range(1000):
        folder = Folder(tmp_path / str(number), SaveHdf5(), *[SaveNumpy()] * beside, gathered=True)
        folder.save(*(make(f"before{k}", arrays={"clip": arrays["clip"] + k}) for k in range(2)))
        new = [make(name, arrays={"clip": arrays["clip"] + k}) for name, k in (("last", 7), ("last2", 8))]
        store = folder.store()
        for each in new:
            store.save(each)
        with pytest.MonkeyPatch.context() as monkeypatch:
            steps = kill_at(number, monkeypatch)
            try:
                folder.end_run(store)
                finished = True
            except Killed:
                finished = False
        assert contents(folder.path) == wanted, number
        assert all(folder.done(each) for each in new), number
        with h5py.File(file_of(folder.path)) as file:  # whole at any moment
            assert {"before0", "before1"} <= set(file)
        folder.end_run()
        left = {path.name for path in folder.path.rglob("*") if path.is_file() and ".locks" not in path.parts}
        metas = {f"{name}_meta.json" for name in wanted} if beside else set()
        assert {name for name in left if not name.endswith((".part", ".npy"))} == {"ViT-B_32.h5", *metas}
        with h5py.File(file_of(folder.path)) as file:
            assert set(file) == set(wanted)
        if finished:
            assert number == len(steps) > 8
            return
    raise AssertionError("never finished")


def test_a_file_of_the_user_that_ends_alike_stays(make: Make, folder: Folder) -> None:
    mine = folder.path / "clip" / "ViT-B_32" / "mine.hdf5"
    mine.parent.mkdir(parents=True)
    with h5py.File(mine, "w") as file:
        file["x"] = np.arange(3)
    folder.save(make("a"))
    assert mine.exists()
    assert list(contents(folder.path)) == ["a"]


def test_an_item_that_is_done_again_meanwhile_keeps_its_new_file(
    make: Make, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the packing and the removal of its own file."""
    old, new = make("a"), make("a", settings={"model": "other"})
    real = SaveHdf5.gather

    def gather(*arguments: Any) -> Any:
        problems = real(*arguments)
        Store(folder.path, [SaveHdf5()]).save(new)
        return problems

    with monkeypatch.context() as patch:
        patch.setattr(SaveHdf5, "gather", gather)
        folder.save(old)
    assert folder.done(new)
    folder.end_run()
    assert folder.done(new)


def test_another_process_that_gathers_is_waited_for(
    make: Make, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = folder.store(), folder.store()
    store.save(make("a"))
    archive = str(file_of(folder.path))
    monkeypatch.setattr(gathering, "PATIENCE_SECONDS", 0.3)
    assert other._locks.take(archive)
    with pytest.raises(UserError, match=rf"ViT-B_32\.h5: .*process {os.getpid()} has been writing it"):
        folder.end_run(store)
    assert folder.done(make("a"))
    other._locks.release(archive)
    folder.end_run()
    assert files(folder.path) == ["clip", "clip/ViT-B_32.h5"]


def save_many(out: Path, worker: int, source: Path) -> None:
    store = Store(out, [SaveHdf5()])
    with store.session(Ledger(None, settings={})):
        for k in range(20):
            arrays = {"clip": np.full((50, 60), 100.0 * worker + k, np.float32)}
            features = Features(Item(source, f"w{worker}/{k}"), "clip/ViT-B_32", arrays, {"model": "x"})
            if not store.done(features.item, features.folder, features.settings):
                store.save(features)


def test_processes_save_into_one_folder_and_some_are_killed(tmp_path: Path) -> None:
    source = tmp_path / "video.mp4"
    source.write_bytes(b"video")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["store.items", "h5py"])
    for round_ in range(3):
        workers = [context.Process(target=save_many, args=(tmp_path, w, source)) for w in range(3)]
        for worker in workers:
            worker.start()
        if round_ < 2:
            time.sleep(0.4)
            os.kill(workers[round_].pid or 0, signal.SIGKILL)
        for worker in workers:
            worker.join(60)
    found = contents(tmp_path)
    assert found == {f"w{w}/{k}": 100.0 * w + k for w in range(3) for k in range(20)}
    with h5py.File(file_of(tmp_path)) as file:
        assert {name: len(file[name]) for name in file} == {f"w{w}": 20 for w in range(3)}  # pyright: ignore
    assert not list(tmp_path.rglob("*.own.hdf5"))


def test_without_locks_several_processes_never_replace_one_file(
    make: Make, folder: Folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = folder.store()
    store.save(make("a"))
    store._locks.working = False
    folder.end_run(store)
    assert "--config-name convert gathers them" in caplog.text
    assert folder.done(replace(make("a")))
    assert not file_of(folder.path).exists()
    alone = Store(folder.path, [SaveHdf5()], shared=False)
    alone._locks.working = False
    assert not alone.done(make("b").item, "clip/ViT-B_32", {})
    folder.end_run(alone)
    assert files(folder.path) == ["clip", "clip/ViT-B_32.h5"]
