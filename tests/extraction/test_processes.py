"""Several processes run the same job on one folder: whoever lives finishes everything, and nothing is done twice."""

import json
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.shared_folder import Slow, entries, holders, images_in, missing, start, written_twice

NUM_IMAGES = 200


def check_complete(out: Path) -> None:
    assert (missing(out, NUM_IMAGES), written_twice(out)) == (0, 0)
    assert not (out / ".locks").exists()


def wait_for_work(out: Path, number: int) -> None:
    """Until so many items are done."""
    end = time.monotonic() + 60
    while len(list(out.rglob("*_meta.json"))) < number:
        assert time.monotonic() < end
        time.sleep(0.01)


def exits(workers: Sequence[Any]) -> list[int | None]:
    for worker in workers:
        worker.join(60)
    return [worker.exitcode for worker in workers]


def test_each_item_is_done_once(tmp_path: Path) -> None:
    images, out = images_in(tmp_path / "images", NUM_IMAGES), tmp_path / "out"
    assert exits(start(4, images, out)) == [0] * 4
    check_complete(out)
    assert entries(out, "done") == {f"{k:04}": 1 for k in range(NUM_IMAGES)}
    assert not list(out.rglob("*.part"))


def test_killed_processes_cost_nothing(tmp_path: Path) -> None:
    images, out = images_in(tmp_path / "images", NUM_IMAGES), tmp_path / "out"
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
    images, out = images_in(tmp_path / "images", NUM_IMAGES), tmp_path / "out"
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
    images, out = images_in(tmp_path / "images", NUM_IMAGES), tmp_path / "out"
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
    images, out = images_in(tmp_path / "images", NUM_IMAGES), tmp_path / "out"
    workers = start(3, images, out, 1.0)
    wait_for_work(out, 10)
    paused = next(worker for worker in workers if worker.pid in holders(out))
    os.kill(paused.pid, signal.SIGSTOP)
    try:
        assert exits([worker for worker in workers if worker is not paused]) == [1, 1]
        done, missing = entries(out, "done"), entries(out, "elsewhere")
        saved = {path.name.removesuffix("_meta.json") for path in out.rglob("*_meta.json")}
        # One may be paused in the moment between saving an item and entering it.
        assert set(done) | set(missing) | saved == {f"{k:04}" for k in range(NUM_IMAGES)}
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


def versions(out: Path) -> set[int]:
    return {json.loads(meta.read_bytes())["settings"]["version"] for meta in out.rglob("*_meta.json")}


def test_of_two_configurations_at_once_one_is_refused(tmp_path: Path) -> None:
    """And neither takes the other's results for its own."""
    images = images_in(tmp_path / "images", 40)
    for attempt in range(4):
        out = tmp_path / f"out{attempt}"
        first, second = (start(1, images, out, 60.0, version)[0] for version in (1, 2))
        assert sorted(exits([first, second])) == [0, 1]  # pyright: ignore
        done, refused = (first, second) if first.exitcode == 0 else (second, first)
        assert versions(out) == {1 if done is first else 2}
        assert missing(out, 40) == 0
        assert not (out / ".locks").exists()
        assert entries(out, "done") == {f"{k:04}": 1 for k in range(40)}
        assert not entries(out, "elsewhere")
        assert not entries(out, "skipped")
        said = out.with_suffix(f".{refused.pid}").read_text()
        assert "is saving results of other settings there now" in said or "holds results of other settings" in said


def test_what_a_killed_run_of_another_configuration_left_is_kept(tmp_path: Path) -> None:
    images, out = images_in(tmp_path / "images", NUM_IMAGES), tmp_path / "out"
    (killed,) = start(1, images, out)
    wait_for_work(out, 5)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join(60)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*_meta.json")}
    assert exits(start(1, images, out, 60.0, 2)) == [1]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*_meta.json")} == before
    assert exits(start(1, images, out)) == [0]
    assert versions(out) == {1}
