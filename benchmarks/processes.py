"""Several runs of `main.py` on one output folder: `PYTHONPATH=. python benchmarks/processes.py [--images 2000]`.

First 1, 2, 4 and 8 processes at once over the same images: each image must be done once. Then as many as the last of
these, of which a random working one gets `kill -9` again and again and is started anew, and one run that completes the
set: every file must be whole. Without `--model`, a tiny CLIP with random weights is made.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.helpers.architectures import Architecture

REPO = Path(__file__).resolve().parents[1]
TINY = Architecture(16, resolution=32, vision_layers=1, vision_width=64, patch_size=16, text_width=64, text_layers=1)
Written = dict[str, int]  # name of a meta file -> its inode, a new one each time it is written


def write_images(folder: Path, number: int) -> None:
    folder.mkdir()
    random_bytes = np.random.default_rng(0)
    for k in range(number):
        pixels = random_bytes.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((160, 120)).save(folder / f"{k:05}.jpg")


def write_weights(path: Path) -> Path:
    torch.manual_seed(0)
    model = TINY.build()
    model.initialize()
    torch.save(model.state_dict(), path)
    return path


def start(images: Path, model: Path, output: Path) -> subprocess.Popen[bytes]:
    arguments = [f"image_paths={images}", f"model_name={model}", "device=cpu", f"output_path={output}"]
    return subprocess.Popen(
        [sys.executable, "main.py", *arguments, "on_extraction=save_numpy"], cwd=REPO, stderr=subprocess.DEVNULL
    )


def written(output: Path) -> Written:
    return {path.name: path.stat().st_ino for path in (output / "clip").rglob("*_meta.json") if path.exists()}


def wait(processes: list[subprocess.Popen[bytes]]) -> None:
    statuses = [process.wait() for process in processes]
    if any(statuses):
        raise SystemExit("a run failed")


def kill_and_restart(images: Path, model: Path, output: Path, *, processes: int, kills: int, number: int) -> Written:
    """Spreads the kills over the work. Returns how often each meta file was seen to be written."""
    workers = {process.pid: process for process in (start(images, model, output) for _ in range(processes))}
    seen: Written = {}
    times: Counter[str] = Counter()
    killed = 0
    while any(process.poll() is None for process in workers.values()):
        now = written(output)
        times.update(name for name, inode in now.items() if seen.get(name) != inode)
        seen.update(now)
        if killed < kills and len(now) > number * killed / (kills + 1):
            working = [pid for pid in claiming(output) if pid in workers and workers[pid].poll() is None]
            if working:
                process = workers.pop(random.choice(working))
                process.kill()
                process.wait()
                killed += 1
                replacement = start(images, model, output)
                workers[replacement.pid] = replacement
        time.sleep(0.01)
    print(f"\n{killed} processes killed while they worked", file=sys.stderr)
    return dict(times)


def claiming(output: Path) -> list[int]:
    """Process ids with a claim or about to have one."""
    pids = []
    for path in output.glob(".claims/*.owner"):
        try:
            pids.append(json.loads(path.read_bytes())["pid"])
        except (OSError, ValueError):  # just being written, or taken away
            continue
    return pids


def check(output: Path, number: int) -> None:
    """Every image has its features, whole, and nothing half done passes for a result."""
    arrays = list(output.rglob("*_clip.npy"))
    damaged = [path for path in arrays if np.load(path).shape[0] != 1 or not np.isfinite(np.load(path)).all()]
    if len(arrays) != number or len(written(output)) != number or damaged:
        raise SystemExit(f"{len(arrays)} arrays and {len(written(output))} records of {number}; damaged: {damaged}")


def line(name: str, output: Path, number: int, seconds: float, twice: int) -> str:
    parts = len([path for path in output.rglob("*.part") if path.is_file()])
    claims = len(list(output.glob(".claims/*")))
    return f"| {name} | {seconds:.1f} | {number / seconds:.0f} | {number} | {twice} | {claims} | {parts} |"


def done_lines(output: Path) -> Counter[str]:
    entries = [json.loads(text) for text in (output / "ledger.jsonl").read_text().splitlines()]
    return Counter(entry["item"] for entry in entries if entry["event"] == "item" and entry["status"] == "done")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--kills", type=int, default=50)
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with tempfile.TemporaryDirectory() as scratch:
        images, number = Path(scratch, "images"), options.images
        write_images(images, number)
        model = options.model.resolve() if options.model else write_weights(Path(scratch, "tiny.pt"))
        print("| processes | seconds | images/s | done | done twice | left-over claims | part files |")
        print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
        for count in options.processes:
            output, started = Path(scratch, f"out{count}"), time.monotonic()
            wait([start(images, model, output) for _ in range(count)])
            seconds, done = time.monotonic() - started, done_lines(output)
            check(output, number)
            if len(done) != number:
                raise SystemExit(f"{len(done)} of {number} images are done according to the ledger")
            print(line(str(count), output, number, seconds, done.total() - number), flush=True)
        output, started, count = Path(scratch, "killed"), time.monotonic(), options.processes[-1]
        times = kill_and_restart(images, model, output, processes=count, kills=options.kills, number=number)
        wait([start(images, model, output)])
        seconds, twice = time.monotonic() - started, sum(times.values()) - len(times)
        check(output, number)
        print(line(f"{count}, {options.kills} times kill -9", output, number, seconds, twice))


if __name__ == "__main__":
    main()
