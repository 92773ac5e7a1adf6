"""Disks that are full, gone, read-only or somebody else's: one line, status 1, nothing half written."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from extraction.batching import Encoded
from extraction.events import End, Prepared, Start
from extraction.pipeline import extract
from media.images import open_image
from media.inputs import find_inputs
from store.forms import SaveNumpy
from store.hdf5 import SaveHdf5
from store.ledger import Ledger
from store.record import item_source
from utils.errors import UserError
from utils.types import Features, Item, Show

NOBODY = 65534
as_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root becomes somebody else")


class Pictures:
    """Reads images for what they are and gives `width` numbers for each; `on_item` is told before."""

    unit, readers, ahead, in_processes, folder, settings = "images", 1, 4, False, "pictures", {"version": 1}
    batch_size, on_error = 2, "skip"
    shows: Sequence[Show] = ()

    def __init__(self, width: int = 4, on_item: Callable[[str], Any] = lambda name: None) -> None:
        self.width, self.on_item = width, on_item

    @property
    def rows(self) -> "Pictures":
        return self

    @property
    def streams(self) -> dict[str, Any]:
        return {"image": self, "video": self}

    def read(self, item: Item, *, skip: int = 0) -> Iterator[Start | Prepared | End]:
        self.on_item(item.name)
        with open_image(item.path) as image:
            source = item_source(item)
            yield Start(1)
            for _ in image:
                yield Prepared(0)
            yield End(source=source)

    def encode(self, contents: Sequence[int]) -> dict[str, np.ndarray]:
        return {"numbers": np.zeros((len(contents), self.width), np.float32)}

    def finish(self, encoded: Encoded) -> Features:
        return Features(encoded.item, self.folder, encoded.features, self.settings, source=encoded.end.source)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(30):
        Image.new("RGB", (8, 8)).save(tmp_path / "in" / f"{number:02}.png")
    return tmp_path / "in"


def run(images: Path, out: Path, extractor: Pictures | None = None, **more: Any) -> int:
    given = {"extractor": extractor or Pictures(), "on_extraction": [SaveNumpy()], "output_path": out}
    return extract(inputs=find_inputs(image_paths=str(images)), **(given | more))  # type: ignore[arg-type]


def counts(out: Path) -> dict[str, int]:
    end = json.loads((out / "ledger.jsonl").read_text().splitlines()[-1])
    assert end["event"] == "end"
    return end["counts"]


def half_written(out: Path) -> list[Path]:
    return [path for path in out.rglob("*") if path.name.endswith(".part") or ".locks" in path.parts]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """1 MB, in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1M", "none", str(place)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_too_small_is_told_after_the_first_item(images: Path, small_disk: Path) -> None:
    expected = r"29 items .*takes 1\.3 MB; 1\.0 MB are free, 0\.\d MB are missing: .*; 2\d of 30 items are left undone"
    with pytest.raises(UserError, match=expected):
        run(images, small_disk / "out", Pictures(width=10000))  # 40 kB and a meta file, in blocks
    assert counts(small_disk / "out")["done"] <= 4
    assert half_written(small_disk / "out") == []


@pytest.mark.parametrize("form", [SaveNumpy, SaveHdf5])
def test_a_disk_that_runs_full_on_the_way(images: Path, small_disk: Path, form: Any, capsys: Any) -> None:
    """Nobody could know: somebody else fills it. The account is still told."""

    def fill(name: str) -> None:
        if name == "10":
            with pytest.raises(OSError, match="No space left"):
                (small_disk / "other").write_bytes(b"x" * 2**20)

    out = small_disk / "out"
    with pytest.raises(UserError, match=r"the disk is full .*; \d+ of 30 items are left undone$"):
        run(images, out, Pictures(on_item=fill), on_extraction=[form()])
    assert " done (listed in " in capsys.readouterr().err
    assert half_written(out) == []
    (small_disk / "other").unlink()
    assert run(images, out, on_extraction=[form()]) == 0
    assert half_written(out) == []


def test_room_for_what_is_left_is_enough(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items that are done take nothing: those 30 would not fit again."""
    for name in ("07", "19"):
        (images / f"{name}.png").rename(tmp_path / f"{name}.png")
    assert run(images, tmp_path / "out") == 0
    for name in ("07", "19"):
        (tmp_path / f"{name}.png").rename(images / f"{name}.png")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=4 * 4096))
    assert run(images, tmp_path / "out") == 0
    assert counts(tmp_path / "out") == {"done": 2, "skipped": 28}
    with pytest.raises(UserError, match="are missing"):
        run(images, tmp_path / "other")


def test_videos_are_only_warned_about(images: Path, tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    inputs = find_inputs(video_paths=[str(path) for path in images.iterdir()])
    assert extract(inputs=inputs, extractor=Pictures(), on_extraction=[SaveNumpy()], output_path=tmp_path / "out") == 0
    assert sum("are missing: free some space" in line for line in caplog.messages) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' always full device")
def test_an_account_that_cannot_be_written_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger("/dev/full", settings={})
    with pytest.raises(UserError, match="the disk is full"):
        ledger.add(Item(Path("a.mp4"), "a"), "failed", reason="a.mp4: no video")
    with pytest.raises(UserError, match="the disk is full"):
        ledger.report()
    assert "failed: a.mp4: no video\n1 failed" in capsys.readouterr().err


@contextmanager
def nobody() -> Iterator[Path]:
    """Somebody without rights, and a folder that is theirs to see."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        os.seteuid(NOBODY)
        try:
            yield Path(name)
        finally:
            os.seteuid(0)


@as_root
def test_a_folder_where_one_may_not_write(images: Path) -> None:
    with nobody() as place:
        os.seteuid(0)
        shutil.copytree(images, place / "in")
        os.seteuid(NOBODY)
        with pytest.raises(UserError, match=r"not allowed to write there: .*; 30 of 30 items are left undone"):
            run(place / "in", place / "out")
        assert not (place / "out").exists()


@as_root
def test_inputs_that_one_may_not_read(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A few are listed; ten in a row are no accident."""
    with nobody() as place:
        os.seteuid(0)
        shutil.copytree(images, place / "in")
        (place / "out").mkdir(mode=0o777)
        os.chmod(place / "out", 0o777)
        for number in (3, 4, *range(12, 30)):
            (place / "in" / f"{number:02}.png").chmod(0)
        os.seteuid(NOBODY)
        with pytest.raises(UserError, match=r"10 inputs in a row failed .*\(Permission denied.*; 8 of 30 items are"):
            run(place / "in", place / "out")
        assert counts(place / "out") == {"done": 10, "failed": 12}
        assert run(place / "in", place / "out", stop_after_failures=0) == 1
        assert counts(place / "out") == {"skipped": 10, "failed": 20}
        assert "... and " not in capsys.readouterr().err.rpartition("skipped")[2]


def test_inputs_that_vanish_or_are_replaced_on_the_way(images: Path, tmp_path: Path) -> None:
    def change(name: str) -> None:
        if name == "05":
            (images / "08.png").unlink()
            (images / "15.png").write_bytes(b"no image")
            (images / "20.png").unlink()
            (images / "20.png").mkdir()

    assert run(images, tmp_path / "out", Pictures(on_item=change)) == 1
    assert counts(tmp_path / "out") == {"done": 27, "failed": 3}


def test_inputs_whose_disk_is_gone(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are not there are entered at once, wherever they are; those that cannot be read stop the run."""
    monkeypatch.setattr("extraction.work_list._missing", lambda item: "")
    with pytest.raises(UserError, match=r"10 inputs in a row failed .*no such file.*; 1\d of 30 items are left undone"):
        run(images, tmp_path / "out", Pictures(on_item=lambda name: name == "05" and shutil.rmtree(images)))
    assert counts(tmp_path / "out")["failed"] == 10
    monkeypatch.undo()
    with pytest.raises(UserError, match="no file or folder"):
        run(images, tmp_path / "out")
    assert half_written(tmp_path / "out") == []


@pytest.mark.parametrize("in_the_way", ["out", "out/pictures", "out/ledger.jsonl", "out/pictures/00_meta.json"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_something_else_in_the_way(images: Path, tmp_path: Path, in_the_way: str, kind: str) -> None:
    place = tmp_path / in_the_way
    if kind == "folder":
        (place / "inner").mkdir(parents=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"")
    harmless = (in_the_way, kind) in {
        *(("out", "folder"), ("out/pictures", "folder"), ("out/ledger.jsonl", "file")),
        ("out/pictures/00_meta.json", "file"),
    }
    if harmless:
        assert run(images, tmp_path / "out") == 0
        return
    with pytest.raises(UserError, match="in the way: move it or change output_path"):
        run(images, tmp_path / "out")
    assert half_written(tmp_path / "out") == []
