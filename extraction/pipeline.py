"""The job behind `python main.py`: inputs -> features -> store and screen -> ledger. Knows no model.

work list -> prefetch(read) -> encode_batches(encode) -> finish -> save and show
"""

import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm.contrib.logging import logging_redirect_tqdm

from extraction.batching import Background, Encoded, End, Failed, Prepared, Start, encode_batches, prefetch
from extraction.work_list import WorkList
from store.files import plain
from store.forms import Form
from store.items import Store, forms_and_shows
from store.ledger import Ledger, Status
from store.locks import PATIENCE_SECONDS
from utils.errors import MediaError, UserError
from utils.progress_bar import progress_bar
from utils.streams import stdout_is_gone
from utils.types import Features, Item, Show

logger = logging.getLogger(__name__)

INTERRUPTED = 130  # exit status of a program stopped with Ctrl-C


class Stream(Protocol):
    """One kind of input on its way through an extractor."""

    folder: str  # "clip/ViT-B_32": where results stand below output_path
    settings: dict[str, Any]  # what the numbers depend on
    unit: str  # of its rows: "frames"
    readers: int  # threads
    ahead: int  # items open at a time

    def read(self, item: Item) -> Iterator[Start | Prepared | End]: ...

    def encode(self, contents: Sequence[Any]) -> dict[str, np.ndarray]: ...

    def finish(self, encoded: Encoded) -> Features: ...


class Extractor(Protocol):
    """What the pipeline needs to know of `feature_type`."""

    batch_size: int
    on_error: str  # "skip", "partial" or "raise"
    streams: Mapping[str, Stream]  # kind of input ("video", "image", "text") -> Stream

    @property
    def shows(self) -> list[Show]: ...


def extract(
    *,
    inputs: Mapping[str, list[Item]],
    extractor: Extractor,
    on_extraction: dict[str, Form | Show] | list[Form | Show],
    output_path: str | Path = "./output",
    patience_seconds: float = PATIENCE_SECONDS,
) -> int:
    """Run `extractor` over all inputs, save and show the results; the exit status, 0 only if all of it is there.

    Several processes with one `output_path` share the work: see `store.locks`. Items that others hold are waited for,
    as long as one of them comes to an end every `patience_seconds`.
    """
    forms, shows = forms_and_shows(on_extraction)
    streams = {kind: extractor.streams[kind] for kind in inputs}
    settings = {kind: plain(stream.settings) for kind, stream in streams.items()}
    listed = {kind: {"folder": streams[kind].folder, **settings[kind]} for kind in streams}
    ledger = Ledger(Path(output_path) / "ledger.jsonl" if forms else None, settings=listed)
    store = Store(output_path, forms)
    logger.info("found %s", ", ".join(f"{len(items)} {kind}s" for kind, items in inputs.items()) or "nothing")
    try:
        with store.session(ledger):
            for kind, items in inputs.items():
                folder, patience = streams[kind].folder, patience_seconds
                todo = WorkList(
                    *(items, folder, settings[kind], store, ledger),
                    shows=bool(shows),
                    looks=extractor.on_error != "raise",  # then the first in line counts
                    patience_seconds=patience,
                )
                _Run(extractor, streams[kind], shows, store, ledger).over(todo, num_items=len(items))
    except KeyboardInterrupt:
        print("\ninterrupted; what is finished is kept, the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    finally:  # also after an error that ends the run: what was done before it is told
        ledger.report()
    return ledger.exit_status


class _Run:
    """The way of one kind of input."""

    def __init__(self, extractor: Extractor, stream: Stream, shows: list[Show], store: Store, ledger: Ledger) -> None:
        self._extractor, self._stream, self._ledger, self._store = extractor, stream, ledger, store
        self._shows = [*extractor.shows, *shows]

    def over(self, todo: WorkList, *, num_items: int) -> None:
        """The one loop: threads read ahead, this thread encodes, one in the background finishes and writes."""
        stream, batch_size = self._stream, self._extractor.batch_size
        with watched(lambda: num_items - todo.num_left_out, unit=stream.unit) as progress:
            for items in todo.rounds():
                events = prefetch(items, stream.read, workers=stream.readers, depth=2 * batch_size, ahead=stream.ahead)
                with Background(depth=stream.ahead) as background, closing(events):
                    started = time.monotonic()
                    for result in encode_batches(events, stream.encode, batch_size, progress.batch):
                        background.run(self._hand_on, result, todo, time.monotonic() - started)
                        progress.item(result.rows if isinstance(result, Encoded) else 0)
                        started = time.monotonic()

    def _hand_on(self, result: Encoded | Failed, todo: WorkList, seconds: float) -> None:
        """Finish one item, save and show it, enter what became of it."""
        item, empty = result.item, isinstance(result, Encoded) and not result.rows
        try:
            if isinstance(result, Failed):
                raise result.error
            if empty:
                raise MediaError(f"{item.path}: no {self._stream.unit} came out of this file")
            features = self._stream.finish(result)
            self._store.save(features)
            self._show(features)
            status, reason = ("partial", result.end.damage[0]) if result.end.damage else ("done", "")
            warnings, rows = result.end.warnings, result.rows
            self._ledger.add(item, status, reason=reason, warnings=warnings, rows=rows, seconds=seconds)
        except Exception as error:  # one file's: `_fail` tells whose mistake it is and whether the run can go on
            self._fail(item, error, seconds, "empty" if empty else "failed")
        finally:
            todo.release(item)

    def _show(self, features: Features) -> None:
        try:
            for each in self._shows:
                each.show(features)
            sys.stdout.flush()
        except BrokenPipeError:
            stdout_is_gone(saving=bool(self._store.forms))

    def _fail(self, item: Item, error: Exception, seconds: float, status: Status) -> None:
        """One line for a file that cannot be used; anything else is our mistake, and its traceback is shown as well."""
        if isinstance(error, UserError) and not isinstance(error, MediaError):
            raise error  # concerns the run, not this file: a full disk, say
        reason = str(error) if isinstance(error, MediaError) else f"{item.path}: {type(error).__name__}: {error}"
        self._ledger.add(item, status, reason=reason, seconds=seconds)
        if not isinstance(error, MediaError):
            logger.error("%s", "".join(traceback.format_exception(error)))
        if self._extractor.on_error == "raise":
            raise error
        logger.warning("%s: %s", status, reason)


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
