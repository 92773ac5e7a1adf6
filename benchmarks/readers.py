"""Reader processes against threads: `PYTHONPATH=. python benchmarks/readers.py VIDEO ... [--images FOLDER]`.

First reading alone, by number of readers; then whole runs (`save_numpy`, start-up and loading outside), threads and
processes in turn. The cores are those this process may use: `taskset -c 0-3 python ...` gives it four.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as main.py does

from benchmarks.images import write_weights
from extraction.events import Prepared
from extraction.options import FrameOptions, ReaderOptions
from extraction.pipeline import extract
from extraction.preprocess import Preprocess
from extraction.readers import make_ready, read_in_processes
from extraction.rows import ImageRows, VideoRows
from extraction.threads import prefetch
from media.inputs import find_inputs
from models.clip import ExtractCLIP
from store.forms import SaveNumpy
from tests.helpers.architectures import ARCHITECTURES
from utils.types import Item


def rate(events: Any, started: float) -> float:
    """Rows a second."""
    return sum(isinstance(event, Prepared) for _, event in events) / (time.perf_counter() - started)


def read(rows: Any, items: list[Item], workers: int, *, processes: bool) -> float:
    started = time.perf_counter()
    bounds = {"workers": workers, "depth": 64, "ahead": max(16, 2 * workers)}
    if processes:
        return rate(read_in_processes(items, rows, timeout_seconds=120, memory_gb=4, **bounds), started)
    return rate(prefetch(items, rows.read, **bounds), started)


def table(title: str, counts: list[int], measure: Callable[[int, bool], float], rounds: int) -> None:
    print(f"\n{title}\n| readers | threads | processes | ratio |\n| --- | --- | --- | --- |")
    for workers in counts:
        found = [(measure(workers, False), measure(workers, True)) for _ in range(rounds)]
        threads, processes = (statistics.median(each) for each in zip(*found, strict=True))
        ratio = statistics.median(after / before for before, after in found)
        print(f"| {workers} | {threads:.0f} | {processes:.0f} | {ratio:.2f} |", flush=True)


def whole_runs(model: str, inputs: dict[str, Any], rounds: int, **options: Any) -> None:
    seconds: dict[int, list[float]] = {0: [], 2: []}
    extractor = ExtractCLIP(model_name=model, device="cpu", **options)
    for _ in range(rounds):
        for workers, found in seconds.items():
            with tempfile.TemporaryDirectory() as output:
                started = time.perf_counter()
                forms, readers = [SaveNumpy()], ReaderOptions(workers=workers)
                extract(inputs=inputs, extractor=extractor, on_extraction=forms, output_path=output, readers=readers)
                found.append(time.perf_counter() - started)
    ratio = statistics.median(after / before for before, after in zip(*seconds.values(), strict=True))
    threads, processes = (statistics.median(each) for each in seconds.values())
    print(f"| {Path(model).stem} {options or ''} | {threads:.2f} | {processes:.2f} | {ratio:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--images")
    parser.add_argument("--copies", type=int, default=6)
    parser.add_argument("--readers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="*", default=["tiny", "ViT-B/32"])
    options = parser.parse_args()
    make_ready()
    print(f"{len(os.sched_getaffinity(0))} cores")
    prepare, rounds = Preprocess(224, "fast"), options.rounds
    videos = VideoRows(prepare, FrameOptions().sampler())
    items = [Item(Path(path), f"{copy}_{path}") for copy in range(options.copies) for path in options.videos]
    table("every frame/s", options.readers, lambda n, each: read(videos, items, n, processes=each), rounds)
    given = {"video": items}
    if options.images:
        images = find_inputs(image_paths=options.images)["image"]
        reader = ImageRows(prepare)
        table("images/s", options.readers, lambda n, each: read(reader, images, n, processes=each), rounds)
    print("\n| whole run, s | threads | processes | ratio |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        for model in options.models:
            name = str(write_weights(Path(scratch) / "weights.pt", model)) if model in ARCHITECTURES else model
            whole_runs(name, {"video": items[: 2 if model in ARCHITECTURES else None]}, rounds)
            whole_runs(name, given, rounds, extraction_fps=1)


if __name__ == "__main__":
    main()
