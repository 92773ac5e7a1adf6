"""One file for all items: what goes in comes out, whatever happens in between."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from store import journal
from store.hdf5 import SaveHdf5, read_items
from utils.errors import MediaError, UserError
from utils.types import Features, Item

Make = Callable[..., Features]
NAMES = ["plain", "dog/000", "with space", "ünï 猫", "a_b", "-dash.dot"]


def done(handler: SaveHdf5, features: Features) -> bool:
    return handler.done(features.item, features.folder, features.settings)


def file_of(out: Path) -> Path:
    return out / "clip" / "ViT-B_32.h5"


def contents(out: Path) -> dict[str, float]:
    """Every item in the file with the first number of its features."""
    return {record.item: float(arrays["clip"].flat[0]) for record, arrays, _ in read_items(file_of(out))}


@pytest.mark.parametrize("name", NAMES)
def test_round_trip(make: Make, tmp_path: Path, name: str) -> None:
    save, features = SaveHdf5(tmp_path), make(name, predictions=[{"labels": ["a"], "timestamp_ms": 0.0}])
    assert not done(save, features)
    save(features)
    assert done(save, features)
    assert done(SaveHdf5(tmp_path), features)
    with h5py.File(file_of(tmp_path)) as file:
        for key, array in features.arrays.items():
            found = file[name][key][()]  # pyright: ignore
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(found, array)
    ((record, arrays, predictions),) = read_items(file_of(tmp_path))
    assert (record.item, set(arrays), predictions) == (name, set(features.arrays), features.predictions)


def test_items_gather_in_one_file_and_are_done_again_one_by_one(make: Make, tmp_path: Path) -> None:
    save = SaveHdf5(tmp_path)
    items = [make(name) for name in NAMES]
    for features in items:
        save(features)
    changed = make("a_b", settings=items[0].settings | {"model": "other"})
    assert not done(save, changed)
    save(changed)
    assert done(save, changed)
    assert not done(save, items[NAMES.index("a_b")])
    assert all(done(save, features) for features in items if features.item.name != "a_b")
    assert sorted(contents(tmp_path)) == sorted(NAMES)
    Path(items[0].item.path).write_bytes(b"another video")
    assert not done(save, items[0])


def test_items_below_items(make: Make, tmp_path: Path) -> None:
    save = SaveHdf5(tmp_path)
    for name in ("a", "a/b"):
        save(make(name))
    save(make("a", settings={"model": "other"}))
    assert sorted(contents(tmp_path)) == ["a", "a/b"]
    with pytest.raises(MediaError, match="is taken by another item's array"):
        save(make("a/clip"))
    save(make("c/fps"))
    with pytest.raises(MediaError, match="c/fps is taken by another item"):
        save(make("c"))


def test_records_may_be_long(make: Make, tmp_path: Path) -> None:
    save, features = SaveHdf5(tmp_path), make(provenance={"texts": ["a long text " * 50] * 1000})
    save(features)
    assert done(save, features)


def test_another_input_of_the_same_name_is_refused(make: Make, tmp_path: Path) -> None:
    save, features = SaveHdf5(tmp_path), make("dog")
    save(features)
    photo = features.item.path.with_suffix(".jpg")
    photo.write_bytes(b"photo")
    other = Features(Item(photo, "dog"), features.folder, features.arrays, features.settings)
    with pytest.raises(MediaError, match=r"already holds results of .*dog\.mp4"):
        save(other)


def test_nothing_worth_saving(make: Make, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="nan or infinite"):
        SaveHdf5(tmp_path)(make(arrays={"clip": np.full((2, 3), np.nan, np.float32)}))
    assert not file_of(tmp_path).exists()


def test_a_file_that_is_no_hdf5(make: Make, tmp_path: Path) -> None:
    file_of(tmp_path).parent.mkdir(parents=True)
    file_of(tmp_path).write_bytes(b"text" * 100)
    with pytest.raises(UserError, match="no HDF5 file, or damaged"):
        done(SaveHdf5(tmp_path), make())


class Killed(BaseException):
    pass


def kill_at(number: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The process ends before step `number` of everything that reaches the disk."""
    steps: list[int] = []

    def stepped(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if len(steps) == number:
                raise Killed
            steps.append(1)
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(journal, "_write_pages", half_done(stepped))
    monkeypatch.setattr(journal, "atomic_write", stepped(journal.atomic_write))
    monkeypatch.setattr(os, "fsync", stepped(os.fsync))
    monkeypatch.setattr(Path, "unlink", stepped(Path.unlink))
    monkeypatch.setattr(os, "replace", stepped(os.replace))
    return steps


def half_done(stepped: Callable[..., Any]) -> Callable[..., Any]:
    """Each page in two writes, so that a kill can fall between them."""

    def write_pages(file: Any, pages: dict[int, bytes], size: int) -> None:
        for start, page in pages.items():
            page = page[: max(0, size - start)]
            for part in (slice(0, 1000), slice(1000, None)):
                file.seek(start + part.start)
                stepped(file.write)(page[part])
                file.flush()

    return write_pages


def test_a_kill_at_any_step_costs_no_earlier_item(make: Make, tmp_path: Path) -> None:
    arrays = {"clip": np.arange(40_000, dtype=np.float32).reshape(10, 4000)}
    for number in range(1000):
        out = tmp_path / str(number)
        save = SaveHdf5(out)
        for k in range(3):
            save(make(f"before{k}", arrays={"clip": arrays["clip"] + k}))
        with pytest.MonkeyPatch.context() as monkeypatch:
            steps = kill_at(number, monkeypatch)
            try:
                save(make("last", arrays=arrays))
                finished = True
            except Killed:
                finished = False
        found = contents(out)
        assert {f"before{k}": float(k) for k in range(3)}.items() <= found.items(), number
        again = SaveHdf5(out)
        if not done(again, make("last", arrays=arrays)):
            assert not finished
            again(make("last", arrays=arrays))
        assert len(contents(out)) == 4
        if finished:
            assert number == len(steps) > 5
            return
    raise AssertionError("never finished")


def append_many(out: Path, worker: int, source: Path) -> None:
    save = SaveHdf5(out)
    for k in range(30):
        features = Features(
            Item(source, f"w{worker}/{k}"),
            "clip/ViT-B_32",
            {"clip": np.full((50, 60), 100.0 * worker + k, np.float32)},
            {"model": "x"},
        )
        if not save.done(features.item, features.folder, features.settings):
            save(features)


def test_processes_append_to_one_file_and_some_are_killed(tmp_path: Path) -> None:
    source = tmp_path / "video.mp4"
    source.write_bytes(b"video")
    context = multiprocessing.get_context("fork")
    for round_ in range(3):
        workers = [context.Process(target=append_many, args=(tmp_path, w, source)) for w in range(3)]
        for worker in workers:
            worker.start()
        if round_ < 2:
            time.sleep(0.1)
            os.kill(workers[round_].pid or 0, signal.SIGKILL)
        for worker in workers:
            worker.join(60)
    found = contents(tmp_path)
    assert found == {f"w{w}/{k}": 100.0 * w + k for w in range(3) for k in range(30)}
    assert not list(tmp_path.rglob("*.journal"))
