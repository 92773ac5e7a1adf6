"""A list of awkward videos with one that once ended the process in its middle: `python -m tests.fuzz.lists --runs 20`.

Needs ../shared. What each file is to become is found by reading it alone, in a process of its own: rows, an error or a
crash. Each run has to end with exit status 1, with exactly those listed that cannot be read, and with all others done.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from extraction.options import FrameOptions
from extraction.rows import VideoRows
from media.inputs import VIDEO_SUFFIXES
from tests.fuzz.forks import available_cores, outcomes
from tests.fuzz.jobs import OUT
from tests.fuzz.media import Plain
from tests.fuzz.runs import run, warm_up
from tests.helpers.shared_data import SHARED
from utils.errors import MediaError
from utils.types import Item

CRASHER = SHARED / "crashers" / "png_in_mp4.mp4"
NUM_VIDEOS, MOST_BYTES = 70, 3_000_000


def awkward() -> list[Path]:
    """Small videos, those that were made to be awkward first; the one that crashed in the middle."""
    found = sorted((SHARED / "data" / "generated_awkward").rglob("*")) + sorted((SHARED / "data").rglob("*"))
    found += sorted(SHARED.rglob("*"))
    videos = [path for path in found if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES and path != CRASHER]
    small = [path for path in dict.fromkeys(videos) if path.stat().st_size <= MOST_BYTES][: NUM_VIDEOS - 1]
    return [*small[: len(small) // 2], CRASHER, *small[len(small) // 2 :]]


def alone(path: Path) -> str:
    rows = VideoRows(Plain(), FrameOptions(extraction_fps=1).sampler())
    try:
        return "done" if sum(1 for _ in rows.read(Item(path, "x"))) > 2 else "empty"
    except MediaError:
        return "failed"


def problems(folder: Path, status: int, output: str, expected: dict[str, str]) -> list[str]:
    lines = [json.loads(line) for line in (folder / OUT / "ledger.jsonl").read_text().splitlines()]
    found = {line["path"]: line["status"] for line in lines if line["event"] == "item"}
    wrong = [f"{path}: {found.get(path)}, not {want}" for path, want in expected.items() if found.get(path) != want]
    if status != 1:
        wrong.append(f"exit {status}")
    if "Traceback" in output:
        wrong.append(f"a traceback: {output[-300:]}")
    saved = sum(1 for _ in (folder / OUT).rglob("*_meta.json"))
    if saved != Counter(expected.values())["done"]:
        wrong.append(f"{saved} saved")
    return wrong


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.lists", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    given, started = parser.parse_args(words), time.monotonic()
    videos, home, bad, spent = awkward(), Path(tempfile.mkdtemp()), [], 0.0
    try:
        numbers = range(len(videos))
        told = dict(outcomes(numbers, lambda n: alone(videos[n]), processes=available_cores(), limit_seconds=60))
        expected = {str(path): "done" if told[n] == "done" else "failed" for n, path in enumerate(videos)}
        (home / "list.txt").write_bytes(b"".join(os.fsencode(path) + b"\n" for path in videos))
        given_words = (
            f"file_with_video_paths={home / 'list.txt'}",
            "model_name=tiny",
            "device=cpu",
            "extraction_fps=1",
        )
        of_run = (*given_words, "on_extraction=save_numpy", f"output_path={OUT}")
        warm_up([of_run], home / "warm")
        for number in range(given.runs):
            folder = home / f"run{number}"
            folder.mkdir()
            ended = run(of_run, folder)
            spent += ended.seconds
            wrong = problems(folder, ended.status, ended.output, expected)
            wrong += [f"{ended.strays} stray processes"] if ended.strays else []
            bad += [f"run {number}: {each}" for each in wrong[:5]]
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print("\n".join(bad))
    counts = Counter(told.values())
    print(f"{len(videos)} videos, each alone: {', '.join(f'{number} {word}' for word, number in counts.items())}")
    wrong_runs = len({line.split(":")[0] for line in bad})
    print("| runs | as each file alone | otherwise | s/run |\n| --- | --- | --- | --- |")
    print(f"| {given.runs} | {given.runs - wrong_runs} | {wrong_runs} | {spent / given.runs:.1f} |")
    print(f"{time.monotonic() - started:.0f} s")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
