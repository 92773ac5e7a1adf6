"""How fast the real thing goes: a few seconds of reading and encoding real inputs, in the order that is fairest."""

import bisect
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from extraction.batching import Encoded, Failed, encode_batches
from extraction.events import End, Prepared, ReadEvent, Rows, Start
from extraction.options import ReaderOptions
from extraction.pipeline import Stream, read_ahead
from utils.types import Features, Item

_PARTS = 10  # so many items a reader sees at least, as long as it has that many
_READING = "probe"  # what is noted of reading, among an item's facts


Problem = tuple[Path, str]


@dataclass(frozen=True)
class Expected:
    """One input, as far as its header tells."""

    item: Item
    rows: float
    pixels: int = 0  # of a frame: what decoding costs goes by it


@dataclass(frozen=True)
class Speed:
    """What was measured. `problems`: items that turned out not to be readable."""

    num_rows: int = 0
    seconds_per_row: float | None = None  # of the run as a whole; None where nothing came
    features: Features | None = None  # of one item, with as many rows as were read
    problems: list[Problem] = field(default_factory=list)


def measure(
    stream: Stream, inputs: Sequence[Expected], *, batch_size: int, readers: ReaderOptions, seconds: float
) -> Speed:
    """Reads the beginnings of `inputs`, a sample that is fair to rows and sizes, for about `seconds`; 0: two rows.

    Each beginning pays for opening a file, in a run each whole file does: that is set off.
    """
    probe = _Probe(stream, inputs, batch_size, readers)
    probe.run(_Beginnings(_unkept(stream.rows), seconds=60, until=time.monotonic() + 60, most_rows=2), most_items=8)
    features = probe.features
    if features is None or not seconds:
        return Speed(features=features, problems=probe.problems)
    probe = _Probe(stream, inputs, batch_size, readers, probe.problems)
    probe.run(_Beginnings(_unkept(stream.rows), seconds / _PARTS, until=time.monotonic() + seconds))
    return Speed(probe.num_rows, probe.seconds_per_row(), features, probe.problems)


def _unkept(rows: Any) -> Any:
    """Without re-timed videos that are written and kept."""
    return replace(rows, tmp_folder=None) if getattr(rows, "tmp_folder", None) else rows


def _sample(inputs: Sequence[Expected]) -> Iterator[Expected]:
    """Without end, each by its share of all rows, and after any number of them evenly from the smallest pictures to
    the largest (van der Corput's sequence).
    """
    by_pixels = sorted(inputs, key=lambda each: each.pixels)
    ends = list(itertools.accumulate(max(each.rows, 1e-9) for each in by_pixels))
    for number in itertools.count(1):
        at = int(bin(number)[:1:-1], 2) / (1 << number.bit_length())  # the bits mirrored behind the point
        yield by_pixels[bisect.bisect(ends, at * ends[-1])]


@dataclass(frozen=True)
class _Beginnings:
    """Of each item what is read in `seconds`, and nothing after `until`; can be sent to another process."""

    rows: Rows
    seconds: float
    until: float  # by the system's monotonic clock, which all processes share
    most_rows: int | None = None

    def read(self, item: Item, *, skip: int = 0) -> Iterator[Start | Prepared | End]:
        busy, opening, num_rows = 0.0, 0.0, 0
        with closing(self.rows.read(item, skip=skip)) as events:  # pyright: ignore[reportArgumentType]
            while True:
                started = time.monotonic()
                event = next(events)
                busy += time.monotonic() - started
                if isinstance(event, Prepared):
                    opening = opening if num_rows else busy  # with the first row
                    num_rows += 1
                enough = num_rows and (busy > self.seconds or time.monotonic() > self.until)
                if isinstance(event, End) or enough or num_rows == self.most_rows:
                    if isinstance(event, Prepared):
                        yield event
                    yield End(fps=1.0, facts={_READING: (opening, busy, num_rows)})
                    return
                yield event


class _Probe:
    """One measurement: what a run does, up to finished features."""

    def __init__(
        self,
        stream: Stream,
        inputs: Sequence[Expected],
        batch_size: int,
        readers: ReaderOptions,
        problems: Sequence[Problem] = (),
    ) -> None:
        self._stream, self._inputs, self._batch_size, self._readers = stream, inputs, batch_size, readers
        self.problems = list(problems)
        self.num_rows, self.features = 0, None
        self._began_seconds = self._ended_seconds = self._encode_seconds = 0.0
        self._picked: dict[str, Expected] = {}  # by the names they have here
        self._said: list[tuple[Expected, float, float, int]] = []

    def run(self, rows: _Beginnings, *, most_items: int | None = None) -> None:
        items = self._items(rows.until, most_items)
        instead: Any = _Instead(self._stream, rows)
        events = read_ahead(items, instead, self._readers, depth=2 * self._batch_size, skip=lambda item: 0)
        encode, size, warms_up = self._stream.encode, self._batch_size, most_items is not None
        with closing(events):  # the last batch, filled up, would count for more than the few rows that it has
            for result in encode_batches(self._timed(events), encode, size, self._batch, fixed_size=warms_up):
                self._take(result)
        self._ended_seconds = time.monotonic()

    def seconds_per_row(self) -> float | None:
        """Not less than encoding took; what reading took is counted as in files that are read to the end."""
        if not self.num_rows:
            return None
        here = whole = 0.0
        for each, opening, busy, num_rows in self._said:
            if num_rows:
                per_row = (busy - opening) / (num_rows - 1) if num_rows > 1 else 0.0
                here += busy / num_rows
                whole += per_row + max(0.0, opening - per_row) / max(num_rows, each.rows)
        passed = (self._ended_seconds - self._began_seconds) / self.num_rows
        return max(self._encode_seconds / self.num_rows, passed * whole / (here or 1.0))

    def _items(self, until: float, most_items: int | None) -> Iterator[Item]:
        """No more than there is to do, and nothing of what turned out to be unreadable."""
        bad = {path for path, _ in self.problems}
        rows_left = sum(each.rows for each in self._inputs)
        for number, each in enumerate(_sample(self._inputs)):
            if time.monotonic() > until or rows_left < 0 or number == most_items:
                return
            rows_left -= max(each.rows, 1e-3)
            if each.item.path not in bad:
                self._picked[str(number)] = each
                yield replace(each.item, name=str(number))  # one may be picked twice

    def _timed(self, events: Iterator[tuple[Item, ReadEvent]]) -> Iterator[tuple[Item, ReadEvent]]:
        for each in events:
            self._began_seconds = self._began_seconds or time.monotonic()
            yield each

    def _batch(self, num_rows: int, _: Sequence[int], __: float, encode_seconds: float) -> None:
        self.num_rows += num_rows
        self._encode_seconds += encode_seconds

    def _take(self, result: Encoded | Failed) -> None:
        if isinstance(result, Failed):
            problem = result.item.path, str(result.error)
            self.problems += [problem] if problem not in self.problems else []
            return
        self._said.append((self._picked[result.item.name], *result.end.facts[_READING]))
        if self.features is None and result.rows:
            self.features = self._stream.finish(result)


@dataclass(frozen=True)
class _Instead:
    """A stream that reads otherwise."""

    stream: Stream
    rows: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
