"""Several processes run the same job on one folder: every item is done once, whoever is killed."""

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
from store.handlers import SaveNumpy

from extraction.batching import Encoded, End, Sample, Start
from extraction.pipeline import extract
from media.inputs import find_inputs
from utils.types import Features, Handler, Item

NUM_IMAGES = 200
LEASE_SECONDS = 1  # less than any test would like to wait


class Slow:
    """An extractor that takes its time."""

    batch_size, on_error = 4, "skip"
    folder, settings, unit, readers, ahead = "clip/slow", {"version": 1}, "images", 2, 8

    @property
    def handlers(self) -> list[Handler]:
        return []

    @property
    def streams(self) -> dict[str, Any]:
        return {"image": self}

    def read(self, item: Item) -> Iterator[Start | Sample | End]:
        yield Start(1)
        yield Sample(int(item.name))
        yield End()

    def encode(self, contents: Sequence[int]) -> dict[str, np.ndarray]:
        time.sleep(0.004)
        return {"clip": np.array(contents, np.float32)[:, None]}

    def finish(self, encoded: Encoded) -> Features:
        return Features(encoded.item, self.folder, encoded.features, self.settings)


def work(images: Path, out: Path) -> None:
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)  # the bars of many processes
    inputs = find_inputs(image_paths=str(images))
    extract(
        inputs=inputs, extractor=Slow(), on_extraction=[SaveNumpy(out)], output_path=out, lease_seconds=LEASE_SECONDS
    )


def start(number: int, images: Path, out: Path) -> list[Any]:
    context = multiprocessing.get_context("forkserver")  # a fork of this process could inherit locks of its threads
    context.set_forkserver_preload(["media.inputs", "extraction.pipeline", "store.handlers"])
    workers = [context.Process(target=work, args=(images, out)) for _ in range(number)]
    for worker in workers:
        worker.start()
    return workers


def images_in(folder: Path) -> Path:
    folder.mkdir()
    for k in range(NUM_IMAGES):
        (folder / f"{k:04}.jpg").write_bytes(b"x")
    return folder


def done(out: Path) -> Counter[str]:
    lines = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    return Counter(line["item"] for line in lines if line.get("status") == "done")


def check_complete(out: Path) -> None:
    for k in range(NUM_IMAGES):
        assert np.load(out / "clip" / "slow" / f"{k:04}_clip.npy") == [[k]]
        assert (out / "clip" / "slow" / f"{k:04}_meta.json").is_file()
    assert not (out / ".claims").exists()


def test_each_item_is_done_once(tmp_path: Path) -> None:
    images, out = images_in(tmp_path / "images"), tmp_path / "out"
    for worker in start(4, images, out):
        worker.join(60)
        assert worker.exitcode == 0
    check_complete(out)
    assert done(out) == {f"{k:04}": 1 for k in range(NUM_IMAGES)}
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
    for worker in [*workers, *start(1, images, out)]:
        worker.join(60)
        assert worker.exitcode == 0
    # What the last of them found in the hands of a process killed just then. Who was killed while it wrote down who it
    # is, cannot be asked whether it lives: its file stays for a lease.
    time.sleep(LEASE_SECONDS + 0.1)
    work_again = start(1, images, out)[0]
    work_again.join(60)
    assert work_again.exitcode == 0
    check_complete(out)
    assert set(done(out).values()) == {1}  # at most once in the account
