"""Several processes on one output folder, without a model: what tests and `benchmarks/processes.py` share."""

import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from extraction.batching import Encoded
from extraction.events import End, Prepared, Start
from extraction.pipeline import extract
from media.inputs import find_inputs
from store import records
from store.forms import SaveNumpy
from utils.types import Features, Item, Show


class Slow:
    """An extractor that takes its time. The features of item 0042 are 42."""

    batch_size, on_error = 4, "skip"
    folder, settings, unit, readers, ahead, in_processes = "clip/slow", {"version": 1}, "images", 2, 8, False

    @property
    def shows(self) -> list[Show]:
        return []

    @property
    def streams(self) -> dict[str, Any]:
        return {"image": self}

    @property
    def rows(self) -> "Slow":
        return self

    def read(self, item: Item, *, skip: int = 0) -> Iterator[Start | Prepared | End]:
        yield Start(1)
        yield Prepared(int(item.name))
        yield End()

    def encode(self, contents: Sequence[int]) -> dict[str, np.ndarray]:
        time.sleep(0.004)
        return {"clip": np.array(contents, np.float32)[:, None]}

    def finish(self, encoded: Encoded) -> Features:
        return Features(encoded.item, self.folder, encoded.features, self.settings)


def work(images: Path, out: Path, patience_seconds: float = 60, version: int = 1) -> None:
    """One process, with the settings of this version. Every meta file that it writes is noted in `<out>.written`, so
    that one written twice shows.
    """
    os.dup2(os.open(out.with_suffix(f".{os.getpid()}"), os.O_WRONLY | os.O_CREAT), 2)  # the bars of many processes
    log, write_record = (
        os.open(out.with_suffix(".written"), os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        records.write_record,
    )

    def noted(path: Path, record: Any) -> None:
        write_record(path, record)
        os.write(log, f"{path.name}\n".encode())

    records.write_record = noted
    extractor = Slow()
    extractor.settings = {"version": version}
    given = {"inputs": find_inputs(image_paths=str(images)), "extractor": extractor, "on_extraction": [SaveNumpy()]}
    raise SystemExit(extract(**given, output_path=out, patience_seconds=patience_seconds))


def start(number: int, images: Path, out: Path, *more: Any) -> list[Any]:
    context = multiprocessing.get_context("forkserver")  # a fork of this process could inherit locks of its threads
    context.set_forkserver_preload(["media.inputs", "extraction.pipeline", "store.items"])
    workers = [context.Process(target=work, args=(images, out, *more)) for _ in range(number)]
    for worker in workers:
        worker.start()
    return workers


def images_in(folder: Path, number: int) -> Path:
    folder.mkdir()
    for k in range(number):
        (folder / f"{k:04}.jpg").write_bytes(b"x")
    return folder


def entries(out: Path, status: str) -> Counter[str]:
    lines = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    return Counter(line["item"] for line in lines if line.get("status") == status)


def holders(out: Path) -> list[int]:
    """Process ids of those that hold items."""
    found = []
    for path in out.glob(".locks/*"):
        try:
            found.append(int(path.read_text().rpartition(" ")[2]))
        except (OSError, ValueError):  # just taken, or just released
            continue
    return found


def missing(out: Path, number: int) -> int:
    """Items without a meta file, or whose features are not theirs."""
    home, found = out / "clip" / "slow", 0
    for k in range(number):
        if (home / f"{k:04}_meta.json").is_file():
            found += np.array_equal(np.load(home / f"{k:04}_clip.npy"), [[k]])
    return number - found


def written_twice(out: Path) -> int:
    names = out.with_suffix(".written").read_text().split()
    return len(names) - len(set(names))
