"""Interrupted at any moment and run again: what is saved is equal to the byte to what an uninterrupted run saves."""

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from extraction import batching
from extraction.batching import Encoded, encode_batches
from extraction.events import End, Prepared, ReadEvent, Start
from extraction.extractor import FeatureExtractor
from extraction.options import FeatureOptions, FrameOptions
from extraction.pipeline import INTERRUPTED, extract
from models.load import ModelChoice, load
from store import items, parts
from store.parts import Parts
from store.record import item_source
from tests.helpers.index_clips import make_clip
from tests.helpers.saved_forms import saving_forms
from utils.types import Features, Item

FORMS = saving_forms()
ROWS = 50


@dataclass
class Long:
    """Videos of 50 rows; `interrupt_at` is the batch at which somebody presses Ctrl-C."""

    interrupt_at: int = 0
    unit: str = "frames"
    readers: int = 2
    ahead: int = 2
    in_processes: bool = False
    folder: str = "clip/long"
    settings: dict[str, Any] = field(default_factory=lambda: {"version": 1})
    batch_size: int = 4
    on_error: str = "skip"
    shows: list[Any] = field(default_factory=list)
    num_batches: int = 0
    read_rows: int = 0
    slow_seconds: float = 0.0

    @property
    def rows(self) -> "Long":
        return self

    @property
    def streams(self) -> dict[str, Any]:
        return {"video": self}

    def read(self, item: Item, *, skip: int = 0) -> Iterator[Start | Prepared | End]:
        source = item_source(item)
        yield Start(ROWS)
        for row in range(skip, ROWS):
            self.read_rows += 1
            yield Prepared(row, row / 25, row / 24)
        yield End(25.0, source=source)

    def encode(self, contents: Sequence[int]) -> dict[str, np.ndarray]:
        self.num_batches += 1
        time.sleep(self.slow_seconds)
        if self.num_batches == self.interrupt_at:
            raise KeyboardInterrupt
        assert len(contents) == self.batch_size
        rows = np.array(contents, np.float32)[:, None]
        return {"global": np.sin(rows + np.arange(3)), "grid": np.cos(rows + np.arange(8)).reshape(-1, 4, 2)}

    def finish(self, encoded: Encoded) -> Features:
        arrays = {"clip": encoded.features["global"], "grid": encoded.features["grid"].astype(np.float16)}
        arrays["timestamps_ms"] = np.array(encoded.seconds) * 1000
        assert encoded.source_seconds == [row / 24 for row in range(ROWS)]
        predictions = [{"label": str(row), "timestamp_ms": 1000 * at} for row, at in enumerate(encoded.seconds)]
        return Features(encoded.item, self.folder, arrays, self.settings, {}, predictions, encoded.end.source)


def inputs(tmp_path: Path, *names: str) -> dict[str, list[Item]]:
    for name in names:
        if not (tmp_path / f"{name}.mp4").exists():
            (tmp_path / f"{name}.mp4").write_bytes(name.encode())
    return {"video": [Item(tmp_path / f"{name}.mp4", name) for name in names]}


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch goes to the disk, and counts."""
    monkeypatch.setattr(parts, "CHUNK_SECONDS", 0.0)


def saved(out: Path) -> dict[str, bytes]:
    """All files of results but for the time in the meta file, and nothing else beside them."""
    found = {}
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.name != "ledger.jsonl":
            data = path.read_bytes()
            if path.name.endswith("_meta.json"):
                data = json.dumps(json.loads(data) | {"saved": ""}).encode()
            if path.suffix == ".h5":  # the order in which items were taken in shows in the file
                data = in_hdf5(path)
            found[str(path.relative_to(out))] = data
    return found


def in_hdf5(path: Path) -> bytes:
    found: dict[str, str] = {}

    def visit(name: str, node: Any) -> None:
        attributes = {key: str(value) for key, value in node.attrs.items()}
        values = node[()].tobytes().hex() + str(node.dtype) if isinstance(node, h5py.Dataset) else ""
        found[name] = f"{attributes} {values}"

    with h5py.File(path) as file:
        file.visititems(visit)
    return json.dumps(found, sort_keys=True).encode()


@pytest.mark.parametrize("name", FORMS)
def test_resumed_is_equal_to_the_byte(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.record.datetime", _Clock)
    given = {"inputs": inputs(tmp_path, "a", "b"), "on_extraction": [FORMS[name]]}
    with monkeypatch.context() as without:  # as ever: all in memory
        without.setattr(parts, "CHUNK_SECONDS", 1e9)
        assert extract(**given, extractor=Long(), output_path=tmp_path / "whole") == 0
    assert extract(**given, extractor=Long(), output_path=tmp_path / "mapped") == 0
    assert saved(tmp_path / "mapped") == saved(tmp_path / "whole")
    out = tmp_path / "out"
    for at in (9, 8, 3):
        assert extract(**given, extractor=Long(at), output_path=out) == INTERRUPTED
    last = Long()
    assert extract(**given, extractor=last, output_path=out) == 0
    assert saved(out) == saved(tmp_path / "whole")
    assert 0 < last.read_rows < ROWS + 10  # the first was done, of the second a part


class _Clock:
    """No time passes: HDF5 keeps the record inside."""

    @staticmethod
    def now(zone: Any) -> Any:
        from datetime import datetime

        return datetime(2026, 1, 1, tzinfo=zone)


def test_interrupted_at_every_batch(tmp_path: Path) -> None:
    given = {"inputs": inputs(tmp_path, "a", "b"), "on_extraction": [FORMS["save_numpy"]]}
    assert extract(**given, extractor=Long(), output_path=tmp_path / "whole") == 0
    for at in (1, 2, 7, 13, 14, 20, 25):
        out = tmp_path / f"out{at}"
        assert extract(**given, extractor=Long(at), output_path=out) == INTERRUPTED
        again = Long()
        assert extract(**given, extractor=again, output_path=out) == 0
        assert saved(out) == saved(tmp_path / "whole")
        assert again.num_batches <= 25 - at + 3


def test_other_settings_or_another_source_begin_anew(tmp_path: Path) -> None:
    given = {"inputs": inputs(tmp_path, "a"), "on_extraction": [FORMS["save_numpy"]], "output_path": tmp_path / "out"}
    for change in ({"settings": {"version": 2}}, {"batch_size": 5}):
        assert extract(**given, extractor=Long(6)) == INTERRUPTED
        again = Long(6, **change)
        assert extract(**given, extractor=again) == INTERRUPTED
        assert again.read_rows > 20
        assert again.num_batches == 6
    assert extract(**given, extractor=Long(6)) == INTERRUPTED
    (tmp_path / "a.mp4").write_bytes(b"another video")
    again = Long()
    assert extract(**given, extractor=again) == 0
    assert again.read_rows == ROWS
    assert not list((tmp_path / "out").rglob(parts.PARTS))


def test_a_source_replaced_while_it_was_read_is_told(tmp_path: Path) -> None:
    class Replaced(Long):
        def read(self, item: Item, *, skip: int = 0) -> Iterator[Start | Prepared | End]:
            item.path.write_bytes(b"replaced just before it was opened")
            yield from super().read(item, skip=skip)

    given = {"inputs": inputs(tmp_path, "a"), "on_extraction": [FORMS["save_numpy"]], "output_path": tmp_path / "out"}
    assert extract(**given, extractor=Long(6)) == INTERRUPTED
    assert extract(**given, extractor=Replaced()) == 1
    assert "changed while it was read" in (tmp_path / "out" / "ledger.jsonl").read_text()
    again = Long()
    assert extract(**given, extractor=again) == 0
    assert again.read_rows == ROWS


def test_what_failed_for_good_leaves_no_part(tmp_path: Path) -> None:
    class Breaking(Long):
        def read(self, item: Item, *, skip: int = 0) -> Iterator[Start | Prepared | End]:
            for event in super().read(item, skip=skip):
                if isinstance(event, End):
                    raise ValueError("broken at its end")
                yield event

    out = tmp_path / "out"
    assert (
        extract(
            inputs=inputs(tmp_path, "a"), on_extraction=[FORMS["save_numpy"]], extractor=Breaking(), output_path=out
        )
        == 1
    )
    assert not list(out.rglob(parts.PARTS))


def test_a_part_left_by_a_process_killed_after_it_had_saved_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"inputs": inputs(tmp_path, "a"), "on_extraction": [FORMS["save_numpy"]], "output_path": tmp_path / "out"}
    with monkeypatch.context() as killed:
        killed.setattr(Parts, "drop", lambda self, item: None)
        assert extract(**given, extractor=Long()) == 0
    assert list((tmp_path / "out").rglob(parts.FACTS))
    again = Long()
    assert extract(**given, extractor=again) == 0
    assert again.read_rows == 0
    assert not list((tmp_path / "out").rglob(parts.PARTS))


def test_short_items_and_runs_that_only_show_never_touch_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "CHUNK_SECONDS", 1e9)
    monkeypatch.setattr(items, "remove_part", lambda home: None)
    monkeypatch.setattr(Parts, "drop", lambda self, item: None)
    extract(
        inputs=inputs(tmp_path, "a"),
        on_extraction=[FORMS["save_numpy"]],
        extractor=Long(),
        output_path=tmp_path / "out",
    )
    assert not list((tmp_path / "out").rglob(parts.PARTS))


def killed_run(given: dict[str, Any]) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    parts.CHUNK_SECONDS = 0.0
    extract(**given, extractor=Long(slow_seconds=0.01))


def test_killed_by_the_system_at_random_moments(tmp_path: Path) -> None:
    given = {"inputs": inputs(tmp_path, "a", "b"), "on_extraction": [FORMS["save_numpy"]]}
    assert extract(**given, extractor=Long(), output_path=tmp_path / "whole") == 0
    given["output_path"] = tmp_path / "out"
    random = np.random.default_rng(0)
    for _ in range(6):
        process = get_context("fork").Process(target=killed_run, args=(given,))
        process.start()
        time.sleep(random.uniform(0.02, 0.25))
        os.kill(process.pid, signal.SIGKILL)  # pyright: ignore
        process.join()
    assert extract(**given, extractor=Long()) == 0
    found = saved(tmp_path / "out")
    assert {name: data for name, data in found.items() if ".part" not in name} == saved(tmp_path / "whole")


def test_few_rows_are_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes that an open item holds stay below a chunk and a batch, however long it is."""
    monkeypatch.setattr(parts, "CHUNK_SECONDS", 1e9)
    monkeypatch.setattr(parts, "CHUNK_BYTES", 2**14)
    held, add = [], batching._OpenItem.add

    def watched(self: Any, *arguments: Any) -> None:
        add(self, *arguments)
        held.append(sum(array.nbytes for array in self.features.values()))

    monkeypatch.setattr(batching._OpenItem, "add", watched)
    item = inputs(tmp_path, "a")["video"][0]

    def events(rows: int) -> Iterator[tuple[Item, ReadEvent]]:
        yield item, Start(rows)
        for row in range(rows):
            yield item, Prepared(row)
        yield item, End()

    def encode(contents: Sequence[int]) -> dict[str, np.ndarray]:
        return {"grid": np.repeat(np.array(contents, np.float32), 64).reshape(-1, 8, 8)}

    (result,) = encode_batches(events(5000), encode, 8, parts=Parts(tmp_path / "out", {}))
    assert isinstance(result, Encoded)
    assert np.array_equal(result.features["grid"][:, 3, 4], np.arange(5000))
    assert max(held) <= 2 * (2**14 + 8 * 256)


def features_extractor(tiny: Path, **options: Any) -> FeatureExtractor:
    features = FeatureOptions(
        features=["global", "grid"], grid_dtype="float16", normalize=True, show_pred=True, pred_texts=["a cat", "a dog"]
    )
    choice = ModelChoice(model_name=str(tiny), device="cpu")
    return FeatureExtractor(
        load(choice), frames=FrameOptions(extraction_fps=10), features=features, batch_size=8, **options
    )


@pytest.mark.parametrize("at", [2, 5])
def test_features_of_a_model(at: int, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = [make_clip(tmp_path / f"{k}.mp4", 70 + 23 * k, options={"g": "12", "threads": "1"}) for k in range(2)]
    given = {
        "inputs": {"video": [Item(path, path.stem) for path in clips]},
        "on_extraction": [FORMS["save_numpy"], FORMS["save_npz"]],
    }
    assert extract(**given, extractor=features_extractor(tiny), output_path=tmp_path / "whole") == 0
    # In another order, alone, and interrupted: other rows stand beside them.
    stopped = features_extractor(tiny)
    encode, calls = stopped.videos.encode, []

    def interrupted(contents: Sequence[Any]) -> dict[str, np.ndarray]:
        calls.append(len(contents))
        if len(calls) == at:
            raise KeyboardInterrupt
        return encode(contents)

    stopped.videos.encode = interrupted
    backwards = given | {"inputs": {"video": given["inputs"]["video"][::-1]}, "output_path": tmp_path / "out"}
    assert extract(**backwards, extractor=stopped) == INTERRUPTED
    assert extract(**backwards, extractor=features_extractor(tiny)) == 0
    assert set(calls) == {8}
    assert saved(tmp_path / "out") == saved(tmp_path / "whole")
