"""The job, with an extractor that only counts: what becomes of every item, whatever goes wrong."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extraction.batching import Encoded
from extraction.events import End, Prepared, Start
from extraction.pipeline import extract
from media.inputs import find_inputs
from store.forms import SaveNumpy
from utils.errors import MediaError, UserError
from utils.types import Features, Item, Show


@dataclass
class Counting:
    """Rows 0, 1, 2 for every file; `troubles` says which file (by its stem) does what instead."""

    troubles: dict[str, Callable[[], Any]] = field(default_factory=dict)
    unit: str = "frames"
    readers: int = 2
    ahead: int = 2
    in_processes: bool = False
    folder: str = "counting"
    settings: dict[str, Any] = field(default_factory=lambda: {"version": 1})
    batch_size: int = 2
    on_error: str = "skip"
    shows: list[Show] = field(default_factory=list)
    read_items: list[str] = field(default_factory=list)

    @property
    def rows(self) -> "Counting":
        return self

    def read(self, item: Item, *, skip: int = 0) -> Iterator[Start | Prepared | End]:
        self.read_items.append(item.name)
        yield Start(3)
        found = self.troubles[item.path.stem]() if item.path.stem in self.troubles else None
        for row in range(3 if found is None else 0):
            yield Prepared(row, float(row), float(row))
        if found == "damage":
            yield Prepared(0, 0.0, 0.0)
        yield End(1.0, damage=("damaged at 1.00 s",) if found == "damage" else ())

    def encode(self, contents: Sequence[int]) -> dict[str, np.ndarray]:
        return {"counting": np.array(contents, np.float32)[:, None]}

    def finish(self, encoded: Encoded) -> Features:
        return Features(encoded.item, self.folder, encoded.features, self.settings)

    @property
    def streams(self) -> dict[str, Any]:
        return {"video": self, "image": self, "text": self}


@dataclass
class Collecting:
    """Shows by keeping what it gets; `trouble` is raised for the file `bad`."""

    trouble: BaseException | None = None
    got: list[str] = field(default_factory=list)

    def show(self, features: Features) -> None:
        if self.trouble and features.item.name == "bad":
            raise self.trouble
        self.got.append(features.item.name)


def fails(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.fixture
def videos(tmp_path: Path) -> list[str]:
    for name in ("a", "bad", "c"):
        (tmp_path / f"{name}.mp4").write_bytes(name.encode())
    return [str(tmp_path / f"{name}.mp4") for name in ("a", "bad", "c")]


def run(extractor: Counting, handlers: list[Any], videos: list[str], tmp_path: Path, **options: Any) -> int:
    inputs = find_inputs(video_paths=videos)
    given = {"inputs": inputs, "extractor": extractor, "on_extraction": handlers}
    return extract(**given, output_path=tmp_path / "out", **options)


def new_video(tmp_path: Path) -> str:
    (tmp_path / "new.mp4").write_bytes(b"new")
    return str(tmp_path / "new.mp4")


def ledger(tmp_path: Path) -> list[dict[str, Any]]:
    lines = (tmp_path / "out" / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def statuses(tmp_path: Path) -> dict[str, str]:
    return {line["item"]: line["status"] for line in ledger(tmp_path) if line["event"] == "item"}


def test_all_is_well(videos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = Collecting()
    assert run(Counting(), [handler], videos, tmp_path) == 0
    assert handler.got == ["a", "bad", "c"]
    assert not (tmp_path / "out").exists()  # nobody saves
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.rstrip().endswith("3 done")


@pytest.mark.parametrize(
    ("trouble", "status", "exit_status"),
    [
        (fails(MediaError("bad.mp4: is not a video")), "failed", 1),
        (fails(ValueError("our own mistake")), "failed", 1),
        (lambda: "empty", "empty", 1),
        (lambda: "damage", "partial", 0),
    ],
    ids=["unusable", "unexpected", "empty", "damaged"],
)
def test_one_bad_file_among_good_ones(
    trouble: Callable[[], Any],
    status: str,
    exit_status: int,
    videos: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(Counting({"bad": trouble}), [SaveNumpy()], videos, tmp_path) == exit_status
    assert statuses(tmp_path) == {"a": "done", "bad": status, "c": "done"}
    assert ledger(tmp_path)[-1]["counts"] == {"done": 2, status: 1}
    saved = {path.name for path in (tmp_path / "out" / "counting").glob("*.npy")}
    assert saved == {f"{name}_counting.npy" for name in ("a", "c", *(["bad"] if status == "partial" else []))}
    printed = capsys.readouterr().err
    assert f"{status}: " in printed
    assert "bad.mp4" in printed


def test_an_unexpected_exception_is_listed_with_its_traceback(
    videos: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extractor = Counting({"bad": fails(ValueError("our own mistake"))})
    run(extractor, [SaveNumpy()], videos, tmp_path)
    (entry,) = [line for line in ledger(tmp_path) if line.get("status") == "failed"]
    assert entry["reason"].endswith("bad.mp4: ValueError: our own mistake")
    assert "Traceback" in caplog.text


def test_what_is_done_is_skipped_and_other_settings_are_redone_if_asked_for(videos: list[str], tmp_path: Path) -> None:
    handler = SaveNumpy()
    run(Counting(), [handler], videos, tmp_path)
    again = Counting()
    assert run(again, [handler], videos, tmp_path) == 0
    assert again.read_items == []
    assert set(statuses(tmp_path).values()) == {"skipped"}
    Path(videos[1]).write_bytes(b"another video")
    run(again, [handler], videos, tmp_path)
    assert again.read_items == ["bad"]
    changed = Counting(settings={"version": 2})
    for given in (videos, [new_video(tmp_path)]):  # whatever its items: the folder's settings are others
        with pytest.raises(UserError, match=r"counting: holds results of other settings .*version: 1 -> 2"):
            run(changed, [handler], given, tmp_path)
    assert changed.read_items == []
    assert run(changed, [handler], videos, tmp_path, overwrite=True) == 0
    assert sorted(changed.read_items) == ["a", "bad", "c"]
    assert set(statuses(tmp_path).values()) == {"done"}


@pytest.mark.parametrize("trouble", [MediaError("bad: nothing to save"), ZeroDivisionError("a bug")])
def test_a_show_that_fails_for_one_file_does_not_stop_the_others(
    trouble: Exception, videos: list[str], tmp_path: Path
) -> None:
    failing, saving = Collecting(trouble), SaveNumpy()
    assert run(Counting(), [failing, saving], videos, tmp_path) == 1
    assert failing.got == ["a", "c"]
    assert statuses(tmp_path) == {"a": "done", "bad": "failed", "c": "done"}


def test_a_full_disk_stops_the_run_and_what_is_done_is_told(
    videos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extractor, full = Counting(), Collecting(UserError("out: the disk is full"))
    with pytest.raises(UserError, match="the disk is full"):
        run(extractor, [SaveNumpy(), full], videos, tmp_path)
    assert statuses(tmp_path) == {"a": "done"}
    assert ledger(tmp_path)[-1]["counts"] == {"done": 1}
    assert "1 done" in capsys.readouterr().err


def test_on_error_raise_stops_at_the_first_bad_file(videos: list[str], tmp_path: Path) -> None:
    extractor = Counting({"bad": fails(MediaError("bad.mp4: is not a video"))}, on_error="raise")
    with pytest.raises(MediaError, match="is not a video"):
        run(extractor, [SaveNumpy()], videos, tmp_path)
    assert statuses(tmp_path) == {"a": "done", "bad": "failed"}
    assert ledger(tmp_path)[-1]["event"] == "end"


def test_ctrl_c_keeps_what_is_finished(videos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stopping = Collecting(KeyboardInterrupt())
    assert run(Counting(), [SaveNumpy(), stopping], videos, tmp_path) == 130
    assert statuses(tmp_path) == {"a": "done"}
    assert "interrupted; what is finished is kept" in capsys.readouterr().err
    again = Counting()
    assert run(again, [SaveNumpy()], videos, tmp_path) == 0
    assert again.read_items == ["c"]  # `bad` was saved before the interrupt


def test_what_the_extractor_shows_comes_first(videos: list[str], tmp_path: Path) -> None:
    order: list[str] = []

    @dataclass
    class Named(Collecting):
        name: str = ""

        def show(self, features: Features) -> None:
            order.append(self.name)

    run(Counting(shows=[Named(name="own")]), [Named(name="given")], videos[:1], tmp_path)
    assert order == ["own", "given"]


def test_wrong_arguments() -> None:
    with pytest.raises(UserError, match=r"on_extraction=\[\] .*: expected print or another of this group"):
        extract(inputs=find_inputs(video_paths="a.mp4"), extractor=Counting(), on_extraction=[])
    with pytest.raises(UserError, match="nothing to work on: expected at least one of video_paths, "):
        find_inputs()


def test_all_kinds_of_input_in_one_run(videos: list[str], tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"photo")
    inputs = find_inputs(video_paths=videos, image_paths=str(tmp_path / "photo.jpg"), texts=["a", "b"])
    assert sum(map(len, inputs.values())) == 5
    handler = Collecting()
    assert extract(inputs=inputs, extractor=Counting(), on_extraction=[handler]) == 0
    assert handler.got == ["a", "bad", "c", "photo", "texts"]


def test_a_shard_takes_its_part_of_every_kind(videos: list[str], tmp_path: Path) -> None:
    parts = [find_inputs(video_paths=videos, shard=f"{i}/2")["video"] for i in (1, 2)]
    assert [[item.name for item in part] for part in parts] == [["a", "c"], ["bad"]]


def test_many_small_items_through_deep_read_ahead(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{k:03}.mp4") for k in range(100)]
    for path in paths:
        Path(path).write_bytes(b"x")
    handler = Collecting()
    assert run(Counting(ahead=40, batch_size=7), [handler], paths, tmp_path) == 0
    assert handler.got == [f"{k:03}" for k in range(100)]


def test_only_what_failed_is_tried_again(videos: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(Counting({"bad": fails(MediaError("bad.mp4: is not a video"))}), [SaveNumpy()], videos, tmp_path)
    (tmp_path / "new.mp4").write_bytes(b"new")
    inputs = find_inputs(video_paths=[*videos, str(tmp_path / "new.mp4")])
    caplog.set_level("INFO")
    for expected in (["bad"], []):
        again = Counting()
        out = tmp_path / "out"
        assert (
            extract(inputs=inputs, extractor=again, on_extraction=[SaveNumpy()], output_path=out, retry_failed=True)
            == 0
        )
        assert again.read_items == expected
        assert f"retry_failed=true: {len(expected)} of 4 inputs are listed as failed" in caplog.text
        assert "skipped" not in statuses(tmp_path).values()
    everything = Counting()
    run(everything, [SaveNumpy()], [*videos, str(tmp_path / "new.mp4")], tmp_path)
    assert everything.read_items == ["new"]
