"""From items to batches and back: files are read ahead in threads, batches span items, rows return to their item.

Everything is bounded: `ahead` items are open at a time, each at most `depth` samples ahead of the encoder.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from queue import Full, Queue
from threading import Event
from typing import Any

import numpy as np

from utils.types import Item, Source

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Start:
    """An item was opened. `expected_rows` is an estimate for the progress bar, None where nothing is known."""

    expected_rows: int | None


@dataclass(frozen=True)
class Sample:
    """One row on its way to the encoder, the row's time, the time of what it shows."""

    content: Any  # pixels, uint8 (3, n, n), or the token ids of a text (t,); opaque here
    seconds: float = 0.0
    source_seconds: float = 0.0


@dataclass(frozen=True)
class End:
    """An item was read to its end. `facts` go into its provenance; `fps` is the rate of its rows, 0 without one."""

    fps: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    source: Source | None = None  # from before reading: a file that changes meanwhile is then done again
    damage: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """An item could not be read or encoded."""

    error: Exception


ReadEvent = Start | Sample | End | Failure
Reader = Callable[[Item], Iterator[Start | Sample | End]]
Encode = Callable[[Sequence[Any]], dict[str, np.ndarray]]  # contents of n samples -> arrays with n rows


@dataclass(frozen=True)
class Encoded:
    """One item whose rows are all encoded: arrays (t, ...) by name and the two times of every row."""

    item: Item
    features: dict[str, np.ndarray]  # empty where no row came
    seconds: list[float]
    source_seconds: list[float]
    end: End

    @property
    def rows(self) -> int:
        return len(self.seconds)


@dataclass(frozen=True)
class Failed:
    item: Item
    error: Exception


def prefetch(
    items: Iterable[Item], read: Reader, *, workers: int, depth: int, ahead: int | None = None
) -> Iterator[tuple[Item, ReadEvent]]:
    """Events of all items, in the items' order, while `workers` threads read up to `ahead` items before their turn.

    `items` is asked for an item when there is room to read it. Every item ends with `End` or `Failure`. Closing this
    generator stops the threads promptly.
    """
    stop = Event()
    waiting = iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="read") as pool:
        open_items: list[tuple[Item, Queue[ReadEvent]]] = []

        def start(item: Item) -> None:
            queue: Queue[ReadEvent] = Queue(maxsize=depth)
            pool.submit(_read_into, queue, item, read, stop)
            open_items.append((item, queue))

        try:
            for item in islice(waiting, ahead or workers):
                start(item)
            while open_items:
                item, queue = open_items.pop(0)
                event: ReadEvent | None = None
                while not isinstance(event, End | Failure):
                    event = queue.get()
                    yield item, event
                for following in islice(waiting, 1):
                    start(following)
        finally:
            stop.set()


def _read_into(queue: "Queue[ReadEvent]", item: Item, read: Reader, stop: Event) -> None:
    try:
        with closing(read(item)) as events:  # pyright: ignore[reportArgumentType]
            event = None
            for event in events:
                if not _put(queue, event, stop):
                    return
        if not isinstance(event, End):  # the one who waits for it would wait for ever
            raise RuntimeError(f"{item.path}: its reader stopped without an End")
    except Exception as error:  # whatever goes wrong in a thread must reach the one who waits for its events
        _put(queue, Failure(error), stop)


def _put(queue: "Queue[ReadEvent]", event: ReadEvent, stop: Event) -> bool:
    while not stop.is_set():
        try:
            queue.put(event, timeout=_POLL_SECONDS)
        except Full:
            continue
        return True
    return False


class _Growing:
    """Rows copied into one growing array: thousands of small ones, kept for hours, fragment the memory."""

    def __init__(self) -> None:
        self._array: np.ndarray | None = None  # the first `_rows` rows are filled
        self._rows = 0

    def add(self, rows: np.ndarray) -> None:
        end = self._rows + len(rows)
        if self._array is None:
            self._array = np.empty((end, *rows.shape[1:]), rows.dtype)
        elif end > len(self._array):
            grown = np.empty((2 * end, *rows.shape[1:]), rows.dtype)
            grown[: self._rows] = self._array[: self._rows]
            self._array = grown
        self._array[self._rows : end] = rows
        self._rows = end

    @property
    def rows(self) -> np.ndarray:
        assert self._array is not None
        return self._array[: self._rows]


@dataclass
class _Pending:
    """An item between its first sample and its last feature."""

    features: dict[str, _Growing] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    source_seconds: list[float] = field(default_factory=list)
    encoded: int = 0
    outcome: End | Failure | None = None

    def add(self, features: dict[str, np.ndarray], start: int, stop: int) -> None:
        for name, rows in features.items():
            self.features.setdefault(name, _Growing()).add(rows[start:stop])
        self.encoded += stop - start

    def finish(self, item: Item) -> Encoded | Failed:
        if isinstance(self.outcome, Failure):
            return Failed(item, self.outcome.error)
        assert self.outcome is not None
        features = {name: growing.rows for name, growing in self.features.items()}
        return Encoded(item, features, self.seconds, self.source_seconds, self.outcome)


def encode_batches(
    events: Iterable[tuple[Item, ReadEvent]], encode: Encode, batch_size: int
) -> Iterator[Encoded | Failed]:
    """Encode samples in batches of `batch_size` that may hold rows of several items; yield the items as they finish.

    Only the last batch of all is short. Items come out in the order in which they came in.
    """
    open_items: dict[Item, _Pending] = {}
    batch: list[tuple[Item, Any]] = []
    for item, event in events:
        pending = open_items.setdefault(item, _Pending())
        if isinstance(event, Sample):
            pending.seconds.append(event.seconds)
            pending.source_seconds.append(event.source_seconds)
            batch.append((item, event.content))
            if len(batch) == batch_size:
                _encode_one(batch, encode, open_items)
                batch = []
        elif isinstance(event, End | Failure):
            pending.outcome = event
        yield from _finished(open_items)
    if batch:
        _encode_one(batch, encode, open_items)
    yield from _finished(open_items)


def _encode_one(batch: list[tuple[Item, Any]], encode: Encode, open_items: dict[Item, _Pending]) -> None:
    features = encode([content for _, content in batch])
    start = 0
    while start < len(batch):  # runs of the same item
        item = batch[start][0]
        stop = start
        while stop < len(batch) and batch[stop][0] is item:
            stop += 1
        open_items[item].add(features, start, stop)
        start = stop


def _finished(open_items: dict[Item, _Pending]) -> Iterator[Encoded | Failed]:
    """From the front, so that the order of the inputs is kept."""
    while open_items:
        item, pending = next(iter(open_items.items()))
        if pending.outcome is None or pending.encoded < len(pending.seconds):
            return
        yield open_items.pop(item).finish(item)
