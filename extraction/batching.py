"""From rows to batches and back: batches span items, rows return to their item."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from extraction.events import End, Prepared, ReadEvent, Start
from utils.types import Item

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
