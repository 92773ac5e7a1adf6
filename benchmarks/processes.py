"""Several processes on one output folder: `PYTHONPATH=. python benchmarks/processes.py [--rounds 20]`.

300 small images and 6 tiny videos, read as they are, with a stand-in for the model. In every round processes are killed
with `kill -9` while they hold items (and started anew), others are paused and woken. Then: every item must be there and
right, must have been written once, and every process that lives must end with 0. In the last rounds one is paused and
not woken before the others have given it up: they must end with 1 and name what is missing; woken, it completes that.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from extraction.batching import Encoded, End, Prepared, Start
from extraction.pipeline import extract
from media.inputs import find_inputs
from store import items
from store.forms import SaveNumpy
from store.record import item_source
from utils.types import Features, Item, Show

NUM_IMAGES, NUM_VIDEOS, NUM_FRAMES = 300, 6, 5


@dataclass
class Pixels:
    """Stands in for a model: the mean of every picture."""

    kind: str
    batch_size: int = 8
    on_error: str = "skip"
    folder: str = "clip/stand_in"
    settings: dict[str, Any] = field(default_factory=lambda: {"version": 1})
    unit: str = "rows"
    readers: int = 2
    ahead: int = 8
    shows: list[Show] = field(default_factory=list)

    @property
    def streams(self) -> dict[str, Any]:
        return {kind: Pixels(kind) for kind in ("video", "image")}

    def read(self, item: Item) -> Iterator[Start | Prepared | End]:
        source = item_source(item)
        yield Start(1)
        if self.kind == "image":
            with Image.open(item.path) as image:
                yield Prepared(np.asarray(image))
        else:
            with av.open(str(item.path)) as container:
                for number, frame in enumerate(container.decode(video=0)):
                    yield Prepared(frame.to_ndarray(format="rgb24"), float(number), float(number))
        yield End(source=source)

    def encode(self, contents: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        time.sleep(0.01)
        return {"clip": np.array([pixels.mean() for pixels in contents], np.float32)[:, None]}

    def finish(self, encoded: Encoded) -> Features:
        return Features(encoded.item, self.folder, encoded.features, self.settings, source=encoded.end.source)


def write_inputs(folder: Path) -> None:
    folder.mkdir()
    for k in range(NUM_IMAGES):
        Image.new("RGB", (8, 8), (k % 256, k % 256, k % 256)).save(folder / f"i{k:03}.png")
    for k in range(NUM_VIDEOS):
        with av.open(str(folder / f"v{k}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=5)
            stream.width = stream.height = 16
            for _ in range(NUM_FRAMES):
                frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 20 * k, np.uint8))
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


def work(inputs: Path, out: Path, patience_seconds: float) -> None:
    """One process. Every meta file it has written is noted, so that one written twice shows."""
    os.dup2(os.open(out.with_suffix(f".{os.getpid()}"), os.O_WRONLY | os.O_CREAT), 2)
    log, write_record = os.open(out.with_suffix(".written"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), items.write_record

    def noted(path: Path, record: Any) -> None:
        write_record(path, record)
        os.write(log, f"{path.name}\n".encode())

    items.write_record = noted
    found = find_inputs(image_paths=str(inputs / "*.png"), video_paths=str(inputs / "*.mp4"))
    status = extract(
        inputs=found,
        extractor=Pixels(""),
        on_extraction=[SaveNumpy()],
        output_path=out,
        patience_seconds=patience_seconds,
    )
    sys.exit(status)


@dataclass
class Round:
    """Processes on one folder, and what is done to them."""

    inputs: Path
    out: Path
    patience_seconds: float = 120.0
    workers: dict[int, Any] = field(default_factory=dict)
    kills: int = 0
    pauses: int = 0

    def start(self, number: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["av", "PIL.Image", "media.inputs", "extraction.pipeline", "store.items"])
        for _ in range(number):
            worker = context.Process(target=work, args=(self.inputs, self.out, self.patience_seconds))
            worker.start()
            self.workers[worker.pid or 0] = worker

    def holder(self, but: Sequence[int] = ()) -> int | None:
        """A process that holds items just now, as the lock files say."""
        found = []
        for path in self.out.glob(".locks/*"):
            try:
                found.append(int(path.read_text().rpartition(" ")[2]))
            except (OSError, ValueError):  # just taken, or just released
                continue
        alive = [pid for pid in found if pid in self.workers and self.workers[pid].is_alive() and pid not in but]
        return random.choice(alive) if alive else None

    def disturb(self, *, kills: int, pauses: int) -> None:
        asleep: dict[int, float] = {}
        steps = ["kill"] * kills + ["pause"] * pauses
        random.shuffle(steps)
        while steps or asleep:
            time.sleep(random.uniform(0.0, 0.15))
            for pid in [pid for pid, until in asleep.items() if until < time.monotonic()]:
                os.kill(pid, signal.SIGCONT)
                del asleep[pid]
            pid = self.holder(but=list(asleep))
            if pid is None and not any(worker.is_alive() for worker in self.workers.values()):
                return
            if pid is None or not steps:
                continue
            if steps.pop() == "pause":
                os.kill(pid, signal.SIGSTOP)
                asleep[pid] = time.monotonic() + random.uniform(0.2, 4)
                self.pauses += 1
            else:
                os.kill(pid, signal.SIGKILL)
                self.workers.pop(pid).join()
                self.kills += 1
                self.start(1)

    def exits(self, but: Sequence[int] = ()) -> list[int]:
        """Of those that were not killed."""
        living = {pid: worker for pid, worker in self.workers.items() if pid not in but}
        for worker in living.values():
            worker.join()
        return [worker.exitcode for worker in living.values()]

    def entries(self, status: str) -> Counter[str]:
        lines = (self.out / "ledger.jsonl").read_text().splitlines()
        return Counter(entry["item"] for entry in map(json.loads, lines) if entry.get("status") == status)

    def missing(self) -> int:
        """Items without a record, or whose features are not those of their file."""
        home, wrong = self.out / "clip" / "stand_in", 0
        for path in self.inputs.iterdir():
            value = int(path.stem[1:]) * (20 if path.suffix == ".mp4" else 1) % 256
            rows = NUM_FRAMES if path.suffix == ".mp4" else 1
            array = home / f"{path.stem}_clip.npy"
            there = array.exists() and (home / f"{path.stem}_meta.json").exists()
            wrong += not there or not np.allclose(np.load(array), np.full((rows, 1), value), atol=3)
        return wrong

    def twice(self) -> int:
        counts = Counter(self.out.with_suffix(".written").read_text().split())
        return sum(counts.values()) - len(counts)

    def left_over(self) -> int:
        return len(list(self.out.glob(".locks/*")))


def disturbed(current: Round, processes: int) -> bool:
    current.start(processes)
    current.disturb(kills=random.randint(2, 8), pauses=random.randint(2, 8))
    return set(current.exits()) == {0}


def never_woken(current: Round, processes: int) -> bool:
    """One is paused until the others have ended; woken, it finishes what it holds."""
    current.start(processes)
    while (pid := current.holder()) is None:
        time.sleep(0.01)
    os.kill(pid, signal.SIGSTOP)
    current.pauses = 1
    gave_up = set(current.exits(but=[pid])) == {1}
    lost = {path.stem for path in current.inputs.iterdir()} - set(current.entries("done"))
    told = set(current.entries("elsewhere")) == lost
    os.kill(pid, signal.SIGCONT)
    current.exits()
    return gave_up and told and current.workers[pid].exitcode == 0 and bool(lost)


def run(name: str, kind: Callable[[Round, int], bool], rounds: int, processes: int, patience_seconds: float) -> bool:
    totals: Counter[str] = Counter()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        write_inputs(inputs := Path(scratch, "inputs"))
        for number in range(rounds):
            current = Round(inputs, Path(scratch, f"out{number}"), patience_seconds)
            right = kind(current, processes)
            totals.update(kills=current.kills, pauses=current.pauses, wrong=int(not right), missing=current.missing())
            totals.update(twice=current.twice(), left=current.left_over())
    seconds = (time.monotonic() - started) / rounds
    cells = [name, rounds, seconds, *(totals[key] for key in ("kills", "pauses", "missing", "twice", "wrong", "left"))]
    print(
        "| " + " | ".join(f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |", flush=True
    )
    return not any(totals[key] for key in ("missing", "twice", "wrong", "left"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    print(f"{NUM_IMAGES + NUM_VIDEOS} items, {options.processes} processes\n")
    heads = ["", "rounds", "s/round", "kill -9", "pauses", "missing", "written twice", "wrong exits", "left-over locks"]
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}", flush=True)
    fine = [
        run("killed, paused and woken", disturbed, options.rounds, options.processes, 120.0),
        run("one paused too long", never_woken, max(1, options.rounds // 4), options.processes, 2.0),
    ]
    sys.exit(0 if all(fine) else "something is missing, twice, or was not told")


if __name__ == "__main__":
    main()
