"""Rows that lie far apart, decoding only what they show against decoding everything, in turn on the same file:

    PYTHONPATH=. python benchmarks/sparse.py VIDEO...

Times are of reading and conversion to RGB, without a model. The rows are compared bit for bit.
"""

import argparse
import statistics
import time
from fractions import Fraction
from pathlib import Path

import numpy as np

from media import video as video_module
from media.sampling import AtFps, Sampler, Total
from media.video import VideoReader

SAMPLERS: dict[str, Sampler] = {
    "extraction_total=4": Total(4),
    "extraction_total=8": Total(8),
    "extraction_total=32": Total(32),
    "extraction_fps=0.1": AtFps(Fraction(1, 10)),
    "extraction_fps=0.5": AtFps(Fraction(1, 2)),
}


def read(path: Path, sampler: Sampler, far_apart_seconds: float) -> tuple[float, list[np.ndarray]]:
    video_module._FAR_APART_SECONDS = far_apart_seconds
    start = time.monotonic()
    with VideoReader(path) as video:
        pictures = [row.frame.to_rgb() for row in sampler.rows(video)]
    return time.monotonic() - start, pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("videos", nargs="+", type=Path)
    options = parser.parse_args()
    default = video_module._FAR_APART_SECONDS
    print("| video | rows | all decoded, s | what is shown, s | ratio |\n| --- | --- | --- | --- | --- |")
    for path in options.videos:
        for name, sampler in SAMPLERS.items():
            whole, parts = [], []
            for _ in range(options.rounds):
                seconds, expected = read(path, sampler, float("inf"))
                whole.append(seconds)
                seconds, found = read(path, sampler, default)
                parts.append(seconds)
                assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True)), f"{path}: {name}"
            ratio = statistics.median(a / b for a, b in zip(whole, parts, strict=True))
            cells = f"{statistics.median(whole):.2f} | {statistics.median(parts):.2f} | {ratio:.1f}"
            print(f"| {path.name} | {name}: {len(found)} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
