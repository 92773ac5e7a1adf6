"""From items to batches and back: files are read ahead in threads, batches span items, rows return to their item, and
what is complete is handed on behind the encoder.

Everything is bounded: `ahead` items are open at a time, each at most `depth` rows ahead of the encoder, and as many
results wait to be handed on as `Background` may hold.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, field
from itertools import groupby, islice
from queue import Empty, Queue
from threading import Event
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from utils.types import Item, Source


@dataclass(frozen=True)
class Start:
    """An item was opened. `expected_rows` is an estimate for the progress bar, None where nothing is known."""

    expected_rows: int | None


@dataclass(frozen=True)
class Prepared:
    """One row, ready for the encoder, the row's time, the time of what it shows."""

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


ReadEvent = Start | Prepared | End | Exception  # an item ends with `End`, or with what went wrong in reading it
Reader = Callable[[Item], Iterator[Start | Prepared | End]]
Encode = Callable[[Sequence[Any]], dict[str, np.ndarray]]  # contents of n rows -> arrays with n rows
OnBatch = Callable[[int, Sequence[int], float, float], None]  # see `extraction.pipeline.Progress.batch`


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
    """One item that could not be read."""

    item: Item
    error: Exception


def prefetch(
    items: Iterable[Item], read: Reader, *, workers: int, depth: int, ahead: int | None = None
) -> Generator[tuple[Item, ReadEvent], None, None]:
    """Events of all items, in the items' order, while `workers` threads read up to `ahead` items before their turn.

    `items` is asked for an item when there is room to read it. Every item ends with `End` or an exception. Closing this
    generator stops the threads promptly.
    """
    stop, waiting = Event(), iter(items)
    open_items: deque[tuple[Item, Queue[ReadEvent]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="read", initializer=use_one_thread_here) as pool:
        try:
            while True:
                for item in islice(waiting, (ahead or workers) - len(open_items)):
                    open_items.append((item, Queue(maxsize=depth)))
                    pool.submit(_read_into, open_items[-1][1], item, read, stop)
                if not open_items:
                    return
                item, queue = open_items[0]
                event: ReadEvent | None = None
                while not isinstance(event, End | Exception):
                    event = queue.get()
                    yield item, event
                open_items.popleft()
        finally:
            stop.set()
            for _, queue in open_items:  # a reader that waits for room gets it, and sees that it is to stop
                with suppress(Empty):
                    queue.get_nowait()


def use_one_thread_here() -> None:
    """Keep what this thread does (resizing, converting) out of OpenMP; an `initializer` of thread pools.

    Every thread that uses OpenMP gets a team of its own whose members wait by spinning; with readers and encoder on
    the same cores that made runs ten times slower (figures in benchmarks/results.md).
    """
    torch.get_num_threads()  # PyTorch sets up a thread's OpenMP on first use, which would undo the limit
    threadpool_limits(limits=1, user_api="openmp")


def _read_into(queue: "Queue[ReadEvent]", item: Item, read: Reader, stop: Event) -> None:
    try:
        event = None
        with closing(read(item)) as events:  # pyright: ignore[reportArgumentType]
            while not stop.is_set() and (event := next(events, None)) is not None:
                queue.put(event)
        if not isinstance(event, End):  # the one who waits for it would wait for ever
            raise RuntimeError(f"{item.path}: its reader stopped without an End")
    except Exception as error:  # whatever goes wrong in a thread must reach the one who waits for its events
        if not stop.is_set():
            queue.put(error)


@dataclass(eq=False)
class _OpenItem:
    """An item between its first row and its last feature.

    Features are copied into arrays that grow: thousands of small ones, kept for hours, fragment the memory.
    """

    item: Item
    expected_rows: int | None = None
    seconds: list[float] = field(default_factory=list)
    source_seconds: list[float] = field(default_factory=list)
    features: dict[str, np.ndarray] = field(default_factory=dict)  # the first `num_encoded` rows are filled
    num_encoded: int = 0
    outcome: End | Exception | None = None

    def add(self, features: dict[str, np.ndarray], start: int, stop: int) -> None:
        """Rows `start` to `stop` of a batch."""
        end = self.num_encoded + stop - start
        for name, rows in features.items():
            array = self.features.get(name)
            if array is None or end > len(array):
                grown = np.empty((end if array is None else 2 * end, *rows.shape[1:]), rows.dtype)
                if array is not None:
                    grown[: self.num_encoded] = array[: self.num_encoded]
                self.features[name] = array = grown
            array[self.num_encoded : end] = rows[start:stop]
        self.num_encoded = end


def encode_batches(
    events: Iterable[tuple[Item, ReadEvent]], encode: Encode, batch_size: int, on_batch: OnBatch | None = None
) -> Iterator[Encoded | Failed]:
    """Encode rows in batches of `batch_size` that may hold rows of several items; yield the items as they finish.

    Only the last batch of all is short. Items come out in the order in which they came in. `on_batch` is told of every
    batch.
    """
    open_items: deque[_OpenItem] = deque()
    batch: list[tuple[_OpenItem, Any]] = []
    waited_seconds, asked_seconds = 0.0, time.perf_counter()
    for item, event in events:
        waited_seconds += time.perf_counter() - asked_seconds
        if not open_items or open_items[-1].outcome is not None:
            open_items.append(_OpenItem(item))
        newest = open_items[-1]
        if isinstance(event, Prepared):
            newest.seconds.append(event.seconds)
            newest.source_seconds.append(event.source_seconds)
            batch.append((newest, event.content))
            if len(batch) == batch_size:
                _encode(batch, encode, open_items, waited_seconds, on_batch)
                batch, waited_seconds = [], 0.0
        elif isinstance(event, Start):
            newest.expected_rows = event.expected_rows
        else:
            newest.outcome = event
        yield from _finished(open_items)
        asked_seconds = time.perf_counter()
    if batch:
        _encode(batch, encode, open_items, waited_seconds, on_batch)
    yield from _finished(open_items)


def _encode(
    batch: Sequence[tuple[_OpenItem, Any]],
    encode: Encode,
    open_items: Iterable[_OpenItem],
    waited_seconds: float,
    on_batch: OnBatch | None,
) -> None:
    started = time.perf_counter()
    features = encode([content for _, content in batch])
    encode_seconds = time.perf_counter() - started
    start = 0
    for owner, rows in groupby(owner for owner, _ in batch):
        stop = start + sum(1 for _ in rows)
        owner.add(features, start, stop)
        start = stop
    if on_batch:
        expected = [each.expected_rows for each in open_items if each.expected_rows]
        on_batch(len(batch), expected, waited_seconds, encode_seconds)


def _finished(open_items: deque[_OpenItem]) -> Iterator[Encoded | Failed]:
    """From the front, so that the order of the inputs is kept."""
    while open_items and (outcome := open_items[0].outcome) is not None:
        first = open_items[0]
        if first.num_encoded < len(first.seconds):
            return
        open_items.popleft()
        if isinstance(outcome, Exception):
            yield Failed(first.item, outcome)
        else:
            features = {name: array[: first.num_encoded] for name, array in first.features.items()}
            yield Encoded(first.item, features, first.seconds, first.source_seconds, outcome)


class Background(AbstractContextManager["Background"]):
    """A thread that works behind the main loop: calls run one after another, at most `depth` of them waiting.

    What one of them raises comes out of the next `run`, or of leaving the block; those behind it do not run.
    """

    def __init__(self, *, depth: int) -> None:
        self._depth = depth  # each holds its arguments in memory
        self._waiting: deque[Future[None]] = deque()
        self._failed = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")

    def run(self, call: Callable[..., None], *arguments: Any) -> None:
        while self._waiting and (len(self._waiting) >= self._depth or self._waiting[0].done()):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._guarded, call, *arguments))

    def _guarded(self, call: Callable[..., None], *arguments: Any) -> None:
        if self._failed:
            return
        try:
            call(*arguments)
        except BaseException:
            self._failed = True
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits for what is left. In an error, finished items behind it are not lost: they are handed on as well."""
        try:
            while kind is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(wait=True)
