"""Several processes run the same job on one folder: whoever lives finishes everything, and nothing is done twice."""

import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extraction.batching import Encoded, End, Prepared, Start
from extraction.pipeline import extract
from media.inputs import find_inputs
from store.forms import SaveNumpy
from utils.types import Features, Item, Show

NUM_IMAGES = 200


class Slow:
    """An extractor that takes its time."""

    batch_size, on_error = 4, "skip"
    folder, settings, unit, readers, ahead = "clip/slow", {"version": 1}, "images", 2, 8

    @property
    def shows(self) -> list[Show]:
        return []

    @property
    def streams(self) -> dict[str, Any]:
        return {"image": self}

    def read(self, item: Item) -> Iterator[Start | Prepared | End]:
        yield Start(1)
        yield Prepared(int(item.name))
        yield End()

    def encode(self, contents: Sequence[int]) -> dict[str, np.ndarray]:
        time.sleep(0.004)
        return {"clip": np.array(contents, np.float32)[:, None]}

    def finish(self, encoded: Encoded) -> Features:
        return Features(encoded.item, self.folder, encoded.features, self.settings)


def work(images: Path, out: Path, patience_seconds: float = 60) -> None:
    log = os.open(out.with_suffix(f".{os.getpid()}"), os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 2)  # the bars of many processes
    inputs = find_inputs(image_paths=str(images))
    status = extract(
        inputs=inputs,
        extractor=Slow(),
        on_extraction=[SaveNumpy()],
        output_path=out,
        patience_seconds=patience_seconds,
    )
    raise SystemExit(status)


def start(number: int, images: Path, out: Path, *more: Any) -> list[Any]:
    context = multiprocessing.get_context("forkserver")  # a fork of this process could inherit locks of its threads
    context.set_forkserver_preload(["media.inputs", "extraction.pipeline", "store.items"])
    workers = [context.Process(target=work, args=(images, out, *more)) for _ in range(number)]
    for worker in workers:
        worker.start()
    return workers


def images_in(folder: Path) -> Path:
    folder.mkdir()
    for k in range(NUM_IMAGES):
        (folder / f"{k:04}.jpg").write_bytes(b"x")
    return folder


def entries(out: Path, status: str) -> Counter[str]:
    lines = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    return Counter(line["item"] for line in lines if line.get("status") == status)


def check_complete(out: Path) -> None:
    for k in range(NUM_IMAGES):
        assert np.load(out / "clip" / "slow" / f"{k:04}_clip.npy") == [[k]]
        assert (out / "clip" / "slow" / f"{k:04}_meta.json").is_file()
    assert not (out / ".locks").exists()


def wait_for_work(out: Path, number: int) -> None:
    """Until so many items are done."""
    end = time.monotonic() + 60
    while len(list(out.rglob("*_meta.json"))) < number:
        assert time.monotonic() < end
        time.sleep(0.01)


def holders(out: Path) -> list[int]:
    """Process ids of those that hold items."""
    found = []
    for path in out.glob(".locks/*"):
        try:
            found.append(int(path.read_text().rpartition(" ")[2]))
        except (OSError, ValueError):  # just taken, or just released
            continue
    return found


def exits(workers: Sequence[Any]) -> list[int | None]:
    for worker in workers:
        worker.join(60)
    return [worker.exitcode for worker in workers]


def test_each_item_is_done_once(tmp_path: Path) -> None:
    images, out = images_in(tmp_path / "images"), tmp_path / "out"
    assert exits(start(4, images, out)) == [0] * 4
    check_complete(out)
    assert entries(out, "done") == {f"{k:04}": 1 for k in range(NUM_IMAGES)}
    assert not list(out.rglob("*.part"))


def test_killed_processes_cost_nothing(tmp_path: Path) -> None:
    images, out = images_in(tmp_path / "images"), tmp_path / "out"
    rng = random.Random(0)
    workers, kills = start(4, images, out), 0
    while kills < 8 and any(worker.is_alive() for worker in workers):
        time.sleep(0.05)
        victim = rng.choice([worker for worker in workers if worker.is_alive()] or workers)
        os.kill(victim.pid, signal.SIGKILL)
        victim.join(60)
        kills += 1
        workers = [*(worker for worker in workers if worker is not victim), *start(1, images, out)]
    assert exits(workers) == [0] * 4
    check_complete(out)
    assert set(entries(out, "done").values()) == {1}  # at most once in the account


def test_one_that_is_killed_late_is_finished_by_those_that_wait(tmp_path: Path) -> None:
    """The others have nothing left to do but its items, and do not end before those are done."""
    images, out = images_in(tmp_path / "images"), tmp_path / "out"
    workers = start(3, images, out)
    wait_for_work(out, 10)
    victim = next(worker for worker in workers if worker.pid in holders(out))
    os.kill(victim.pid, signal.SIGSTOP)
    wait_for_work(out, NUM_IMAGES - 2 * (Slow.ahead + Slow.batch_size))  # it holds what is read, encoded and written
    time.sleep(1)
    others = [worker for worker in workers if worker is not victim]
    assert all(worker.is_alive() for worker in others)  # they wait
    os.kill(victim.pid, signal.SIGKILL)
    assert exits(others) == [0, 0]
    check_complete(out)


def test_one_that_is_paused_and_woken_throws_nothing_away(tmp_path: Path) -> None:
    images, out = images_in(tmp_path / "images"), tmp_path / "out"
    workers = start(3, images, out)
    wait_for_work(out, 10)
    paused = next(worker for worker in workers if worker.pid in holders(out))
    os.kill(paused.pid, signal.SIGSTOP)
    time.sleep(3)
    os.kill(paused.pid, signal.SIGCONT)
    assert exits(workers) == [0, 0, 0]
    check_complete(out)
    assert entries(out, "done") == {f"{k:04}": 1 for k in range(NUM_IMAGES)}


@pytest.mark.parametrize("woken", [True, False])
def test_one_that_never_wakes_is_said_to_miss(tmp_path: Path, woken: bool) -> None:
    images, out = images_in(tmp_path / "images"), tmp_path / "out"
    workers = start(3, images, out, 1.0)
    wait_for_work(out, 10)
    paused = next(worker for worker in workers if worker.pid in holders(out))
    os.kill(paused.pid, signal.SIGSTOP)
    try:
        assert exits([worker for worker in workers if worker is not paused]) == [1, 1]
        done, missing = entries(out, "done"), entries(out, "elsewhere")
        assert set(done) | set(missing) == {f"{k:04}" for k in range(NUM_IMAGES)}
        assert set(missing.values()) == {2}  # each of the two says so
        assert set(missing) <= {f"{k:04}" for k in range(NUM_IMAGES)} - set(done)
        line = next(line for line in (out / "ledger.jsonl").read_text().splitlines() if "elsewhere" in line)
        assert f"process {paused.pid} has held it for 1 s without finishing anything" in line
    finally:
        os.kill(paused.pid, signal.SIGCONT if woken else signal.SIGKILL)
    if woken:
        assert exits([paused]) == [0]
    assert exits(start(1, images, out)) == [0]
    check_complete(out)
    assert set(entries(out, "done").values()) == {1}
