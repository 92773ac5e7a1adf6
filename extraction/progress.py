"""What a run shows of its progress: a bar with rates, and what it waits for."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tqdm.contrib.logging import logging_redirect_tqdm

from utils.progress_bar import progress_bar


class Progress:
    """Is told of every batch and of every item that is finished.

    The number of rows to come is estimated from the headers of the files opened so far and from the rows of those that
    are finished. `num_items()` may shrink: items that turn out to be done need no work.
    """

    def __init__(self, num_items: Callable[[], int], unit: str) -> None:
        self._num_items = num_items
        self._num_finished = 0
        self._num_known, self._known_rows = 0, 0  # finished items that had rows
        self._waited_seconds, self._encode_seconds = 0.0, 0.0
        self._bar = progress_bar(title=f"0/{num_items()} files", unit=f" {unit}")

    def batch(self, num_rows: int, expected_rows: Sequence[int], waited_seconds: float, encode_seconds: float) -> None:
        """`num_rows` were encoded; `expected_rows` are those of the items being worked on, as far as headers tell."""
        self._waited_seconds += waited_seconds
        self._encode_seconds += encode_seconds
        if num_known := self._num_known + len(expected_rows):
            known_rows = self._known_rows + sum(expected_rows)
            self._bar.total = max(round(known_rows * self._num_items() / num_known), self._bar.n + num_rows)
        share = self._waited_seconds / (self._waited_seconds + self._encode_seconds or 1)
        limit = f"decoding {share:.0%}" if share > 0.5 else f"encoding {1 - share:.0%}"
        self._bar.set_postfix_str(f"waits for {limit}", refresh=False)
        self._bar.update(num_rows)

    def item(self, rows: int) -> None:
        """One more is finished: it had so many rows, none if it failed."""
        self._num_finished += 1
        self._num_known += rows > 0
        self._known_rows += rows
        self._bar.set_description(f"{self._num_finished}/{self._num_items()} files", refresh=False)
        self._bar.update(0)

    def close(self) -> None:
        self._bar.total = self._bar.n
        self._bar.set_description(f"{self._num_finished}/{self._num_items()} files", refresh=False)
        self._bar.close()


@contextmanager
def watched(num_items: Callable[[], int], unit: str) -> Iterator[Progress]:
    """Shows the progress of the block; warnings that are logged meanwhile do not break the bar."""
    with logging_redirect_tqdm(loggers=[logging.getLogger()]):
        progress = Progress(num_items, unit)
        try:
            yield progress
        finally:
            progress.close()
