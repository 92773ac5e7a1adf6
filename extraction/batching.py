"""From rows to batches and back: batches span items, rows return to their item."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from extraction.events import End, Prepared, ReadEvent, Start
from store.parts import Part, Parts
from utils.errors import MediaError
from utils.types import Item

Encode = Callable[[Sequence[Any]], dict[str, np.ndarray]]  # contents of n rows -> arrays with n rows
OnBatch = Callable[[int, Sequence[int], float, float], None]  # see `extraction.pipeline.Progress.batch`
_TIMES = "(times)"  # among the arrays of a part: (t, 2) float64, a row's time and that of what it shows


@dataclass(frozen=True)
class Encoded:
    """One item whose rows are all encoded: arrays (t, ...) by name and the two times of every row.

    The arrays of long items are mapped from the disk (`store.parts`), and can only be read.
    """

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

    Features are copied into arrays that grow: thousands of small ones, kept for hours, fragment the memory. What there
    is of a long item goes to its part on the disk, and the arrays are filled anew.
    """

    item: Item
    part: Part | None = None
    expected_rows: int | None = None
    num_waiting: int = 0  # rows that are in a batch
    times: list[tuple[float, float]] = field(default_factory=list)  # of the rows that are not in the part
    features: dict[str, np.ndarray] = field(default_factory=dict)  # the first `num_held` rows are filled
    num_held: int = 0
    outcome: End | Exception | None = None

    @property
    def is_complete(self) -> bool:
        return self.outcome is not None and not self.num_waiting

    def add(self, features: dict[str, np.ndarray], start: int, stop: int) -> None:
        """Rows `start` to `stop` of a batch."""
        end = self.num_held + stop - start
        for name, rows in features.items():
            array = self.features.get(name)
            if array is None or end > len(array):
                grown = np.empty((end if array is None else 2 * end, *rows.shape[1:]), rows.dtype)
                if array is not None:
                    grown[: self.num_held] = array[: self.num_held]
                self.features[name] = array = grown
            array[self.num_held : end] = rows[start:stop]
        if self.part is not None and not self.num_held and not self.part.rows:
            self.part.wait()  # its time begins with its first row
        self.num_held, self.num_waiting = end, self.num_waiting - (stop - start)
        num_bytes = sum(array[:end].nbytes for array in self.features.values())
        if self.part is not None and not self.is_complete and self.part.is_due(num_bytes):
            self._to_part(self.part)

    def result(self) -> "Encoded | Failed":
        if isinstance(self.outcome, End) and self.part is not None and self.part.rows:
            if self.outcome.source is not None and not self.outcome.source.same_as(self.part.source):
                changed = "has changed while it was read: run the same command again"
                return Failed(self.item, MediaError(f"{self.item.path}: {changed}"))
            self._to_part(self.part)
            features = self.part.arrays()
            times = features.pop(_TIMES).tolist()
        else:
            features, times = {name: array[: self.num_held] for name, array in self.features.items()}, self.times
        if not isinstance(self.outcome, End):
            return Failed(self.item, self.outcome or RuntimeError("not at its end"))
        return Encoded(self.item, features, [one for one, _ in times], [other for _, other in times], self.outcome)

    def _to_part(self, part: Part) -> None:
        if self.num_held:
            times = np.array(self.times[: self.num_held], np.float64)
            part.add({name: array[: self.num_held] for name, array in self.features.items()} | {_TIMES: times})
            del self.times[: self.num_held]
            self.num_held = 0


def encode_batches(
    events: Iterable[tuple[Item, ReadEvent]],
    encode: Encode,
    batch_size: int,
    on_batch: OnBatch | None = None,
    *,
    in_order: bool = False,
    fixed_size: bool = False,
    parts: Parts | None = None,
) -> Iterator[Encoded | Failed]:
    """Encode rows in batches of `batch_size` that may hold rows of several items; yield the items as they finish.

    Events of several items may come mixed, those of one item in order. Only the last batch of all is short; with
    `fixed_size` it is filled up with copies, so that each row is computed as in any other company. `in_order`: items
    come out as they came in. Rows that an item has in `parts` stand before those that are read. `on_batch` is told of
    every batch.
    """
    open_items: dict[Item, _OpenItem] = {}
    batch: list[tuple[_OpenItem, Any]] = []
    fill_to = batch_size if fixed_size else 0
    waited_seconds, asked_seconds = 0.0, time.perf_counter()
    for item, event in events:
        waited_seconds += time.perf_counter() - asked_seconds
        if (owner := open_items.get(item)) is None:
            open_items[item] = owner = _OpenItem(item, parts and parts.of(item))
        if isinstance(event, Prepared):
            owner.times.append((event.seconds, event.source_seconds))
            owner.num_waiting += 1
            batch.append((owner, event.content))
        elif isinstance(event, Start):
            known = owner.part.rows if owner.part else 0
            owner.expected_rows = event.expected_rows and max(1, event.expected_rows - known)
        else:
            owner.outcome = event
        if is_full := len(batch) == batch_size:
            _encode(batch, encode, fill_to, open_items.values(), waited_seconds, on_batch)
            batch, waited_seconds = [], 0.0
        if is_full or owner.is_complete:
            yield from _finished(open_items, in_order)
        asked_seconds = time.perf_counter()
    if batch:
        _encode(batch, encode, fill_to, open_items.values(), waited_seconds, on_batch)
    yield from _finished(open_items, in_order)


def _encode(
    batch: Sequence[tuple[_OpenItem, Any]],
    encode: Encode,
    fill_to: int,
    open_items: Iterable[_OpenItem],
    waited_seconds: float,
    on_batch: OnBatch | None,
) -> None:
    started = time.perf_counter()
    contents = [content for _, content in batch]
    features = encode(contents + contents[-1:] * (fill_to - len(contents)))
    encode_seconds = time.perf_counter() - started
    start = 0
    for owner, rows in groupby(owner for owner, _ in batch):
        stop = start + sum(1 for _ in rows)
        owner.add(features, start, stop)
        start = stop
    if on_batch:
        expected = [each.expected_rows for each in open_items if each.expected_rows]
        on_batch(len(batch), expected, waited_seconds, encode_seconds)


def _finished(open_items: dict[Item, _OpenItem], in_order: bool) -> Iterator[Encoded | Failed]:
    for owner in list(open_items.values()):
        if owner.is_complete:
            del open_items[owner.item]
            yield owner.result()
        elif in_order:
            return
