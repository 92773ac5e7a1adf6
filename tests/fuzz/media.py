"""Damaged videos and images through the pipeline's own readers: `python -m tests.fuzz.media --num 10000 --seed 1`.

Every case is a small file with one to four wounds (`tests.fuzz.mutate`), read as `python main.py` reads it, in a
process that may crash. What must not come out, whatever the damage ("violation" in the table, and exit status 1):

- anything but rows or a MediaError in one line;
- success without a row;
- success that lacks more than the last second of what the file's own header promises, with or without a warning, unless
  all frames of the undamaged file are there: then it is the header that says too much. What a few rows stand for is
  too rough a measure: where they come short, the frames that PyAV alone finds tell;
- no end within `--limit` seconds, or more than 3 GiB of memory.

A reader that crashes costs one item of a run (`extraction.readers`): it is counted, and is no violation.
`--shared` adds the files of ../shared, `--only 17` reads one case again and tells all of it, `--keep FOLDER` keeps the
files of all violations and crashes.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from extraction.events import End, Prepared
from extraction.options import FrameOptions
from extraction.rows import ImageRows, VideoRows
from media.images import image_suffixes
from tests.fuzz.forks import available_cores, outcomes
from tests.fuzz.mutate import case
from tests.fuzz.seeds import write_images, write_videos
from tests.helpers.cut_films import BARELY_SECONDS
from tests.helpers.shared_data import SHARED
from utils.errors import MediaError
from utils.types import Item

IMAGES = image_suffixes()
MOST_SEED_BYTES = 1_000_000
SAMPLINGS = ({}, {}, {"extraction_fps": 5}, {"extraction_fps": 0.5}, {"extraction_total": 3})
# Containers whose duration stands in a header: FFmpeg guesses that of the others from their size.
_TELLING = ("mov", "matroska", "avi", "flv", "asf")


class Plain:
    """Prepares nothing: what is wanted is that every pixel was asked for."""

    def image(self, image: Image.Image) -> Any:
        return np.asarray(image.convert("RGB")).shape

    def frame(self, rgb: np.ndarray) -> Any:
        return rgb.shape

    def settings(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Series:
    """All that decides what the cases are, and where they are written."""

    files: list[tuple[Path, bytes]]
    seed: int
    scratch: Path

    def name(self, number: int) -> str:
        """Of the file it comes from, and its wounds."""
        path, _, wounds = case(self.files, self.seed, number)
        return f"{path.name} {wounds}"

    def kind(self, number: int) -> str:
        """ "mp4", or "gif (image)"."""
        path = case(self.files, self.seed, number)[0]
        return path.suffix.lower().removeprefix(".") + (" (image)" if self._is_image(path, number) else "")

    def read(self, number: int) -> str:
        """What came of case `number`: the first word is the outcome. Whole files must be done."""
        outcome = self._read(number)
        return outcome if number >= 0 or outcome.startswith("done") else f"violation: a whole file: {outcome}"

    def _read(self, number: int) -> str:
        path, data, _ = case(self.files, self.seed, number)
        place = self.scratch / f"{os.getpid()}{path.suffix}"
        place.write_bytes(data)
        if self._is_image(path, number):
            return _outcome(ImageRows(Plain(), exif_orientation=bool(number % 2)), place, {})
        options = random.Random(f"sampling {self.seed}:{number}").choice(SAMPLINGS)
        outcome = _outcome(VideoRows(Plain(), FrameOptions(**options).sampler()), place, options)
        if "lacks" in outcome and _frames(place)[0] >= _frames(path)[0]:
            return "done, its header says too much"
        return outcome

    def _is_image(self, path: Path, number: int) -> bool:
        return path.suffix.lower() in IMAGES and (path.suffix.lower() != ".gif" or number % 2 == 0)


def _outcome(stream: VideoRows | ImageRows, path: Path, options: dict[str, Any]) -> str:
    seconds, end = [], None
    try:
        for event in stream.read(Item(path, "case")):
            if isinstance(event, Prepared):
                seconds.append((event.seconds, event.source_seconds))
            end = event
    except MediaError as error:
        if "\n" in str(error) or not str(error).startswith(str(path)):
            return f"violation: message of several lines, or without its file: {str(error)!r}"
        return "failed"
    if not isinstance(end, End) or not seconds:
        return "violation: success without rows"
    if end.damage:
        return "partial"
    if isinstance(stream, ImageRows):
        return "done with warnings" if end.warnings else "done"
    # Of re-timed videos the row's own time counts: what it shows may be long before, where no frame lies between.
    shown = [source if not options else own for own, source in seconds]
    if path.suffix == ".gif":  # has no header that promises: its last frame may be shown for minutes
        return "done with warnings" if end.warnings else "done"
    promised = _promised(path, end.facts["video"])
    lacks = promised - max(shown) - _row_seconds(end.facts["video"], options)
    if lacks > BARELY_SECONDS and (lacks := promised - _frames(path)[1]) > BARELY_SECONDS:
        warned = any("cut short" in warning for warning in end.warnings)
        much = "1 to 10 s" if lacks < 10 else "more than 10 s"
        return f"violation: done{' with a warning' if warned else ''}, lacks {much} of its header"
    if any(later < earlier for earlier, later in pairwise(shown)):
        return "done, times step back"
    return "done with warnings" if end.warnings else "done"


def _row_seconds(video: dict[str, Any], options: dict[str, Any]) -> float:
    """How far behind the last row's time a video may end."""
    if rate := options.get("extraction_fps"):
        return 1 / rate
    if total := options.get("extraction_total"):
        return (video["duration_seconds"] or 0) / total
    return 1 / video["fps"] if video["fps"] else 0.0


def _frames(path: Path) -> tuple[int, float]:
    """How many there are, and how long they last where time stamps that go back are joined on to the last."""
    number, ticks, last, seconds_per_tick = 0, 0, None, Fraction(0)
    with av.open(str(path), metadata_errors="replace") as container:
        usual = container.streams.video[0].average_rate
        for frame in container.decode(video=0):
            number += 1
            if frame.pts is None or frame.time_base is None:
                continue
            if last is not None:
                ticks += frame.pts - last.pts if frame.pts > last.pts else last.duration
            last, seconds_per_tick = frame, frame.time_base
    of_last = last.duration * seconds_per_tick if last and last.duration else 1 / usual if usual else 0
    return number, float(ticks * seconds_per_tick + of_last)


def _promised(path: Path, video: dict[str, Any]) -> float:
    """Seconds from the first frame on: the most that our reader's facts, or FFmpeg's about track and file, say."""
    promised = [video["duration_seconds"] or 0.0]
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        if stream.duration and container.format.name.startswith(("mov", "avi")):
            promised.append(float(stream.duration * stream.time_base))
        alone = len(container.streams) == 1 and container.format.name.startswith(_TELLING)
        if alone and container.duration and stream.start_time is not None:
            # That of Matroska counts from 0 as FFmpeg writes it, that of others from the first stamp.
            first = 0 if container.format.name.startswith("matroska") else container.start_time or 0
            promised.append((container.duration + first) / 1e6 - float(stream.start_time * stream.time_base))
    return max(promised)


def seed_files(folder: Path, *, shared: bool) -> list[tuple[Path, bytes]]:
    """Made here; with `shared` also the readable small files of ../shared."""
    paths = [*write_videos(folder), *write_images(folder)]
    if shared:
        there = (path for place in ("data", "crashers") for path in sorted((SHARED / place).rglob("*")))
        suffixes = {path.suffix for path in paths} | {".m4v", ".mpeg", ".jpeg", ".m2ts"}
        found = [path for path in there if path.suffix.lower() in suffixes and path.is_file()]
        small = [path for path in found if 0 < path.stat().st_size <= MOST_SEED_BYTES]
        videos = [path for path in small if path.suffix.lower() not in IMAGES]
        paths += videos + [path for path in small if path not in videos][:40]
    return [(path, path.read_bytes()) for path in paths]


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.media", description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case: to go on with a series")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds a case may take")
    parser.add_argument("--processes", type=int, default=available_cores())
    parser.add_argument("--shared", action="store_true")
    parser.add_argument("--only", type=int)
    parser.add_argument("--keep", type=Path)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    given = arguments(words)
    started, table, bad = time.monotonic(), defaultdict(Counter), []
    bad_ones = ("violation", "error", "hung", "out of", "crashed")
    with tempfile.TemporaryDirectory() as folder:
        home, scratch = Path(folder) / "seeds", Path(folder) / "scratch"
        home.mkdir()
        scratch.mkdir()
        series = Series(seed_files(home, shared=given.shared), given.seed, scratch)
        numbers = [given.only] if given.only is not None else [*range(given.first, given.first + given.num)]
        if given.only is None and not given.shared:
            numbers += range(-len(series.files), 0)
        run = partial(outcomes, processes=given.processes, limit_seconds=given.limit)
        for number, outcome in run(numbers, series.read):
            table[outcome.partition(": ")[0] if outcome[:5] == "error" else outcome][series.kind(number)] += 1
            if outcome.startswith(bad_ones):
                bad.append((number, outcome))
                if given.keep:
                    given.keep.mkdir(parents=True, exist_ok=True)
                    path, data, _ = case(series.files, given.seed, number)
                    (given.keep / f"{number}{path.suffix}").write_bytes(data)
        for number, outcome in sorted(bad)[:200]:
            print(f"case {number} ({series.name(number)}): {outcome}")
    show(table)
    total = sum(sum(counts.values()) for counts in table.values())
    print(f"{total} files, seed {given.seed}, {time.monotonic() - started:.0f} s")
    return int(any(not outcome.startswith("crashed") for _, outcome in bad))


def show(table: dict[str, Counter[str]]) -> None:
    """Counts by outcome, and of which kinds of files they are."""
    print("| outcome | files | of which |\n| --- | --- | --- |")
    for outcome, counts in sorted(table.items(), key=lambda row: -sum(row[1].values())):
        print(
            f"| {outcome} | {sum(counts.values())} | {', '.join(f'{n} {kind}' for kind, n in counts.most_common(8))} |"
        )


if __name__ == "__main__":
    sys.exit(main())
