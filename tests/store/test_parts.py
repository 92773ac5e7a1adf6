"""Parts of long items: whatever is killed when, what counts is whole, and of this source under these settings."""

import io
import json
import os
import pickle
import shutil
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store import forms, parts, writing
from store.locks import Locks
from store.parts import FACTS, Parts, part_path, remove_forgotten
from tests.helpers.saved_forms import Folder, saving_forms
from utils.errors import UserError
from utils.types import Features, Item

SETTINGS = {"model": "x", "batch_size": 4}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every chunk counts as soon as it is written."""
    monkeypatch.setattr(parts, "CHUNK_SECONDS", 0.0)


@pytest.fixture
def item(tmp_path: Path) -> Item:
    (tmp_path / "long.mp4").write_bytes(b"a video")
    return Item(tmp_path / "long.mp4", "dog/long")


def chunk(number: int, rows: int = 3) -> dict[str, np.ndarray]:
    start = 100 * number
    return {
        "global": np.arange(start, start + 2 * rows, dtype=np.float32).reshape(rows, 2),
        "grid": np.arange(start, start + 6 * rows, dtype=np.float16).reshape(rows, 3, 2),
        "times": np.arange(start, start + rows, dtype=np.float64),
    }


def whole(*numbers: int) -> dict[str, np.ndarray]:
    chunks = [chunk(number) for number in numbers]
    return {name: np.concatenate([each[name] for each in chunks]) for name in chunks[0]} if chunks else {}


def opened(tmp_path: Path, item: Item, settings: dict[str, Any] = SETTINGS) -> parts.Part:
    part = Parts(tmp_path / "out", settings).of(item)
    assert part is not None
    return part


def equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == array.dtype and np.array_equal(found[name], array) for name, array in expected.items()
    )


def test_rows_are_there_again_and_more_are_added(tmp_path: Path, item: Item) -> None:
    part = opened(tmp_path, item)
    assert part.rows == 0
    part.add(chunk(0))
    part.add(chunk(1))
    again = opened(tmp_path, item)
    assert again.rows == 6
    assert equal(again.arrays(), whole(0, 1))
    again.add(chunk(2))
    assert equal(again.arrays(), whole(0, 1, 2))
    assert all(type(array) is np.ndarray for array in again.arrays().values())  # forms need not know
    assert equal(opened(tmp_path, item).arrays(), whole(0, 1, 2))


def test_rows_that_do_not_count_yet_are_cut_off(tmp_path: Path, item: Item, monkeypatch: pytest.MonkeyPatch) -> None:
    part = opened(tmp_path, item)
    part.add(chunk(0))
    monkeypatch.setattr(parts, "CHUNK_SECONDS", 1000.0)
    part.add(chunk(1))
    again = opened(tmp_path, item)
    assert again.rows == 3
    again.add(chunk(2))
    assert equal(again.arrays(), whole(0, 2))


def change_source(home: Path, item: Item) -> None:
    item.path.write_bytes(b"another video")


def flip_a_byte(home: Path, item: Item) -> None:
    data = bytearray((home / "1.rows").read_bytes())
    data[7] ^= 1
    (home / "1.rows").write_bytes(data)


def cut_short(home: Path, item: Item) -> None:
    os.truncate(home / "0.rows", 8)


def lose_rows(home: Path, item: Item) -> None:
    (home / "2.rows").unlink()


def rewrite(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path, Item], None]:
    def rewriting(home: Path, item: Item) -> None:
        facts = json.loads((home / FACTS).read_bytes())
        change(facts)
        (home / FACTS).write_text(json.dumps(facts))

    return rewriting


@pytest.mark.parametrize(
    "damage",
    [
        change_source,
        flip_a_byte,
        cut_short,
        lose_rows,
        lambda home, item: (home / FACTS).write_bytes(b'{"format": 1, "item'),
        lambda home, item: (home / FACTS).write_bytes(b"[1]"),
        rewrite(lambda facts: facts.pop("chunks")),
        rewrite(lambda facts: facts["arrays"]["grid"].update(dtype="object")),
        rewrite(lambda facts: facts["arrays"]["grid"].update(shape=["x"])),
        rewrite(lambda facts: facts["chunks"][0].update(rows=-1)),
        rewrite(lambda facts: facts["chunks"][0].update(crc32=[])),
    ],
)
def test_what_cannot_be_gone_on_with_is_thrown_away(
    damage: Callable[[Path, Item], None], tmp_path: Path, item: Item
) -> None:
    opened(tmp_path, item).add(chunk(0))
    home = part_path(tmp_path / "out", item.name)
    damage(home, item)
    part = opened(tmp_path, item)
    assert part.rows == 0
    assert not home.exists()
    part.add(chunk(5))
    assert equal(opened(tmp_path, item).arrays(), whole(5))


def test_other_settings_begin_anew(tmp_path: Path, item: Item) -> None:
    opened(tmp_path, item).add(chunk(0))
    assert opened(tmp_path, item, SETTINGS | {"batch_size": 8}).rows == 0


def test_nothing_is_left_of_a_part_that_is_dropped(tmp_path: Path, item: Item) -> None:
    of_run = Parts(tmp_path / "out", SETTINGS)
    part = of_run.of(item)
    assert part is not None
    part.add(chunk(0))
    of_run.drop(item)
    assert list((tmp_path / "out").iterdir()) == []
    of_run.drop(item)  # nothing to do


def test_a_source_that_is_gone_is_the_readers_to_tell(tmp_path: Path) -> None:
    of_run = Parts(tmp_path / "out", SETTINGS)
    gone = Item(tmp_path / "gone.mp4", "gone")
    assert of_run.rows(gone) == 0
    assert of_run.of(gone) is None


def test_where_nothing_can_be_written_one_line_says_so(tmp_path: Path, item: Item) -> None:
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(UserError, match="in the way"):
        opened(tmp_path, item).add(chunk(0))


class Killed(BaseException):
    """As if the process ended here: nothing behind it runs that would tidy up."""


def killing_at(monkeypatch: pytest.MonkeyPatch, number: int) -> Callable[[], int]:
    """Ends the process at file operation `number`, before or half-way through it."""
    count = 0

    def counted(operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                raise Killed
            return operation(*arguments, **options)

        return call

    for owner, name in (
        (os, "fsync"),
        (os, "replace"),
        (os, "unlink"),
        (os, "rmdir"),
        (os, "mkdir"),
        (Path, "open"),
        (Path, "unlink"),
        (Path, "rmdir"),
        (shutil, "rmtree"),
    ):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    return lambda: count


def extract(tmp_path: Path, item: Item) -> dict[str, np.ndarray]:
    """As a run does it: goes on from what is there, and drops it in the end."""
    of_run = Parts(tmp_path / "out", SETTINGS)
    part = of_run.of(item)
    assert part is not None
    assert part.rows % 3 == 0
    for number in range(part.rows // 3, 4):
        part.add(chunk(number))
    arrays = {name: array.copy() for name, array in part.arrays().items()}
    of_run.drop(item)
    return arrays


def test_killed_at_any_operation_the_next_run_ends_equal(
    tmp_path: Path, item: Item, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        operations = killing_at(patched, 0)
        extract(tmp_path, item)
        total = operations()
    assert total > 40
    gone_on = set()
    for number in range(1, total + 1):
        for at in (number, 7):  # the second run is killed, too
            with monkeypatch.context() as patched, suppress(Killed):
                killing_at(patched, at)
                extract(tmp_path, item)
        gone_on.add(opened(tmp_path, item).rows)
        assert equal(extract(tmp_path, item), whole(0, 1, 2, 3))
        assert not list((tmp_path / "out").rglob("*.rows"))
        shutil.rmtree(tmp_path / "out")
    assert gone_on >= {0, 3, 6, 9}


def test_parts_that_nobody_wants_go_after_a_week(tmp_path: Path, item: Item, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path, item).add(chunk(0))
    home = part_path(tmp_path / "out", item.name)
    with Locks(tmp_path) as mine, Locks(tmp_path) as other:
        remove_forgotten(tmp_path / "out", "clip/{}", mine)
        assert home.exists()
        monkeypatch.setattr(parts, "FORGOTTEN_SECONDS", -1.0)
        assert other.take("clip/dog/long")
        remove_forgotten(tmp_path / "out", "clip/{}", mine)
        assert home.exists()
        other.release("clip/dog/long")
        remove_forgotten(tmp_path / "out", "clip/{}", mine)
        assert not home.exists()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64"])
def test_large_arrays_are_pickled_as_ever(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "CHUNK_BYTES", 2**16)
    monkeypatch.setattr(parts, "CHUNK_BYTES", 2**16)
    array = np.arange(300_000, dtype=dtype).reshape(-1, 10, 5)
    written = io.BytesIO()
    forms._pickle(array, written)
    assert written.getvalue() == pickle.dumps(array, protocol=4)


@pytest.mark.parametrize("name", saving_forms())
def test_forms_hold_no_second_copy_of_a_long_items_rows(
    name: str, tmp_path: Path, item: Item, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 MB of rows that are mapped from the disk are saved with a fraction of that in memory."""
    part = opened(tmp_path, item)
    for number in range(16):
        part.add({"clip": np.full((1000, 1024), number, np.float32)})
    (array,) = part.arrays().values()
    features = Features(item, "clip/x", {"clip": array, "grid": array.reshape(16000, 16, 64)}, {}, source=part.source)
    folder = Folder(tmp_path / "saved", saving_forms()[name], gathered=True)
    num_let_go, released = 0, parts.let_go

    def counted(arrays: Any) -> None:
        nonlocal num_let_go
        num_let_go += 1
        released(arrays)

    for module in (parts, writing):
        monkeypatch.setattr(module, "let_go", counted)
    tracemalloc.start()
    try:
        folder.save(features)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.75 * array.nbytes
    written = sum(path.stat().st_size for path in (tmp_path / "saved").rglob("*") if path.is_file())
    assert num_let_go >= 6 + written // parts.CHUNK_BYTES  # all values are looked at first
