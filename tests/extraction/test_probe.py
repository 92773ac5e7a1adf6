"""What is measured before a run, with a stream whose speed is known."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extraction import probe
from extraction.batching import Encoded
from extraction.events import End, Prepared, Start
from extraction.options import ReaderOptions
from extraction.probe import Expected, measure
from utils.errors import MediaError
from utils.types import Features, Item

THREADS = ReaderOptions(workers=0)


@dataclass
class Sleepy:
    """Takes its time to open a file, to read a row and to encode one; counts rows by the names of files."""

    opening: float = 0.0
    reading: float = 0.0
    encoding: float = 0.0
    length: int = 1000
    folder: str = "sleepy"
    unit: str = "frames"
    readers: int = 1
    ahead: int = 2
    in_processes: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    read_rows: Counter[str] = field(default_factory=Counter)
    closed: int = 0

    @property
    def rows(self) -> "Sleepy":
        return self

    def read(self, item: Item, *, skip: int = 0) -> Iterator[Start | Prepared | End]:
        try:
            time.sleep(self.opening)
            if item.path.name == "bad":
                raise MediaError("bad: is no video")
            yield Start(self.length)
            for row in range(self.length):
                time.sleep(self.reading)
                self.read_rows[item.path.name] += 1
                yield Prepared(row)
            yield End()
        finally:
            self.closed += 1

    def encode(self, contents: Sequence[Any]) -> dict[str, np.ndarray]:
        time.sleep(self.encoding * len(contents))
        return {"sleepy": np.zeros((len(contents), 4), np.float32)}

    def finish(self, encoded: Encoded) -> Features:
        return Features(encoded.item, self.folder, encoded.features, {})


def inputs(*names: str, rows: float = 1000) -> list[Expected]:
    return [Expected(Item(Path(name), name), rows) for name in names]


def measured(stream: Sleepy, given: list[Expected], *, seconds: float = 0.5) -> probe.Speed:
    return measure(stream, given, batch_size=4, readers=THREADS, seconds=seconds)  # pyright: ignore


@pytest.mark.parametrize("slow", ["reading", "encoding"])
def test_the_slower_of_the_two_tells(slow: str) -> None:
    found = measured(Sleepy(**{slow: 0.005}), inputs("a", "b"))
    assert found.seconds_per_row is not None
    assert found.seconds_per_row >= 0.004  # sleeping takes no less; more on a busy machine
    assert found.features is not None
    assert found.features.arrays["sleepy"].shape == (2, 4)


def test_opening_is_paid_once_a_file_however_little_is_read_of_it() -> None:
    """0.02 s for 1,000 rows, here for a few: without setting it off, each row would take 0.02 s / a few more."""
    speeds = [measured(Sleepy(opening=opening, reading=0.002), inputs("a"), seconds=0.4) for opening in (0.0, 0.02)]
    without, with_opening = (speed.seconds_per_row for speed in speeds)
    assert without is not None
    assert with_opening is not None
    assert with_opening < 2 * without


def test_what_cannot_be_read_is_told_and_left_alone() -> None:
    stream = Sleepy(length=3)
    found = measured(stream, inputs("bad", "a", rows=3))
    assert found.problems == [(Path("bad"), "bad: is no video")]
    assert found.seconds_per_row is not None
    nothing = measured(Sleepy(), inputs("bad"))
    assert (nothing.seconds_per_row, nothing.features) == (None, None)


def test_without_seconds_only_what_sizes_need_is_read() -> None:
    stream = Sleepy()
    found = measured(stream, inputs("a", "b"), seconds=0)
    assert found.seconds_per_row is None
    assert found.features is not None
    assert sum(stream.read_rows.values()) <= 2 * 8


def test_no_more_than_there_is_to_do() -> None:
    stream = Sleepy(length=5)
    found = measured(stream, inputs("a", "b", rows=5), seconds=60)
    assert found.num_rows <= 15
    assert stream.closed


def test_the_sample_is_fair_to_lengths_and_sizes() -> None:
    given = [
        Expected(Item(Path(f"{k}"), f"{k}"), rows, pixels) for k, (rows, pixels) in enumerate([(1, 9), (6, 1), (1, 5)])
    ]
    for number in (8, 16, 64):
        picked = Counter(each.item.name for each in islice(probe._sample(given), number))
        assert {name: round(8 * count / number) for name, count in picked.items()} == {"0": 1, "1": 6, "2": 1}
