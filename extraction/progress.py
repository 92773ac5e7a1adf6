"""One bar over files and their rows (frames, images, texts), that also tells which side is waiting for the other."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from extraction.batching import Encode, Failure, ReadEvent, Start
from utils.types import Item


class Progress:
    """Rows encoded, with rate, estimated end, files done and the limit: decoding or encoding.

    The number of frames is estimated from the headers of the files opened so far; a rate is over the whole run.
    `num_items()` may shrink: items that turn out to be done need no work.
    """

    def __init__(self, num_items: Callable[[], int], unit: str) -> None:
        self._num_items = num_items
        self._num_finished = 0
        self._expected: dict[Item, int] = {}  # of items being worked on
        self._num_known, self._known_rows = 0, 0  # finished items and `_expected`: what the estimate rests on
        self._decode_wait_seconds = 0.0
        self._encode_seconds = 0.0
        self._started_seconds = time.monotonic()
        self.num_rows = 0
        self._bar = tqdm(total=None, unit=f" {unit}", desc=f"0/{num_items()} files", dynamic_ncols=True, smoothing=0.1)

    def timed_events(self, events: Iterator[tuple[Item, ReadEvent]]) -> Iterator[tuple[Item, ReadEvent]]:
        """Passes events on, counting the time spent waiting for them."""
        while True:
            start = time.perf_counter()
            pair = next(events, None)
            self._decode_wait_seconds += time.perf_counter() - start
            if pair is None:
                return
            item, event = pair
            if isinstance(event, Start) and event.expected_rows:
                self._expect(item, event.expected_rows)
            elif isinstance(event, Failure):
                self._forget(item)
            yield pair

    def timed_encode(self, encode: Encode) -> Encode:
        """The same function, counting its time and rows."""

        def timed(contents: Sequence[Any]) -> dict[str, np.ndarray]:
            start = time.perf_counter()
            features = encode(contents)
            self._encode_seconds += time.perf_counter() - start
            self.num_rows += len(contents)
            self._show(len(contents))
            return features

        return timed

    def finish_item(self, item: Item, rows: int) -> None:
        self._num_finished += 1
        self._forget(item)
        if rows:
            self._num_known += 1
            self._known_rows += rows
        self._show(0)

    def _expect(self, item: Item, rows: int) -> None:
        self._expected[item] = rows
        self._num_known += 1
        self._known_rows += rows

    def _forget(self, item: Item) -> None:
        if item in self._expected:
            self._num_known -= 1
            self._known_rows -= self._expected.pop(item)

    @property
    def limit(self) -> str:
        """Which side kept the other waiting: "decoding" or "encoding", with its share of the time."""
        busy = self._decode_wait_seconds + self._encode_seconds
        if not busy:
            return ""
        share = self._decode_wait_seconds / busy
        return f"waits for decoding {share:.0%}" if share > 0.5 else f"waits for encoding {1 - share:.0%}"

    @property
    def rate(self) -> float:
        """Rows per second since the start, model loading excluded."""
        return self.num_rows / max(time.monotonic() - self._started_seconds, 1e-9)

    def _show(self, num_new: int) -> None:
        if self._num_known:
            estimate = self._known_rows * self._num_items() / self._num_known
            self._bar.total = max(round(estimate), self.num_rows)
        self._bar.set_description(f"{self._num_finished}/{self._num_items()} files", refresh=False)
        self._bar.set_postfix_str(self.limit, refresh=False)
        self._bar.update(num_new)
        if not num_new:
            self._bar.refresh()

    def close(self) -> None:
        self._bar.total = self.num_rows
        self._bar.close()


@contextmanager
def progress_bar(num_items: Callable[[], int], unit: str) -> Iterator[Progress]:
    """A bar for the time of a run; warnings that are logged meanwhile do not break it."""
    with logging_redirect_tqdm(loggers=[logging.getLogger()]):
        progress = Progress(num_items, unit)
        try:
            yield progress
        finally:
            progress.close()
