"""The job behind `python main.py`: inputs -> features -> store and screen -> ledger. Knows no model.

work list -> prefetch(read) -> encode_batches(encode) -> finish -> save and show
"""

import logging
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm.contrib.logging import logging_redirect_tqdm

from extraction.batching import Encoded, Failed, encode_batches
from extraction.events import ReadEvent, Rows
from extraction.failures import FailuresInARow
from extraction.fork_server import AVAILABLE
from extraction.options import ReaderOptions
from extraction.readers import read_in_processes
from extraction.threads import Background, prefetch
from extraction.work_list import WorkList
from store.files import plain
from store.forms import Form
from store.history import look_back
from store.items import Store, forms_and_shows
from store.ledger import Ledger, Status
from store.locks import PATIENCE_SECONDS
from store.space import SpaceCheck
from utils.errors import MediaError, UserError, check_flags
from utils.progress_bar import progress_bar
from utils.signals import exit_status
from utils.types import Features, Item, Show

logger = logging.getLogger(__name__)

THREADS = ReaderOptions(workers=0)


class Stream(Protocol):
    """One kind of input on its way through an extractor."""

    folder: str  # "clip/ViT-B_32": where results stand below output_path
    settings: dict[str, Any]  # what the numbers depend on
    unit: str  # of its rows: "frames"
    readers: int  # at a time
    ahead: int  # items open at a time
    rows: Rows
    in_processes: bool  # whether `rows` can be sent to other processes, and reading is worth it

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
    readers: ReaderOptions = THREADS,
    retry_failed: bool = False,
    patience_seconds: float = PATIENCE_SECONDS,
    deterministic: bool = True,
    stop_after_failures: int = 10,
) -> int:
    """Run `extractor` over all inputs, save and show the results; the exit status, 0 only if all of it is there.

    Several processes with one `output_path` share the work: see `store.locks`. Items that others hold are waited for,
    as long as one of them comes to an end every `patience_seconds`. With `retry_failed` only what the ledger lists as
    missing is tried, and that includes what killed its reader (twice more: `store.history`). `deterministic`: a row is
    the same to the bit in whatever company it is computed, as every batch has `batch_size` rows. After
    `stop_after_failures` items in a row that failed for the same reason, which is not in the files, the run is stopped;
    0 never stops it. Stopped by a signal (`utils.signals`), it ends with its account, and 128 + the signal's number.
    """
    check_flags(deterministic=deterministic)
    forms, shows = forms_and_shows(on_extraction)
    streams = {kind: extractor.streams[kind] for kind in inputs}
    settings = {kind: plain(stream.settings) for kind, stream in streams.items()}
    listed = {kind: {"folder": streams[kind].folder, **settings[kind]} for kind in streams}
    account = Path(output_path) / "ledger.jsonl" if forms else None
    history = look_back(account, [stream.folder for stream in streams.values()], retry_failed=retry_failed)
    inputs = history.still_missing(inputs) if retry_failed else inputs
    ledger = Ledger(account, settings=listed)
    store, failures = Store(output_path, forms), FailuresInARow(stop_after_failures)
    logger.info("found %s", ", ".join(f"{len(items)} {kind}s" for kind, items in inputs.items()) or "nothing")
    try:
        with store.session(ledger):
            for kind, items in inputs.items():
                todo = WorkList(
                    *(items, streams[kind].folder, settings[kind], store, ledger),
                    shows=bool(shows),
                    looks=extractor.on_error != "raise",  # then the first in line counts
                    history=history,
                    patience_seconds=patience_seconds,
                )
                space = SpaceCheck(
                    output_path, store, items, streams[kind].folder, settings[kind], rows_known=kind != "video"
                )
                checks = failures, space
                run = _Run(extractor, streams[kind], shows, store, ledger, checks, readers, deterministic=deterministic)
                run.over(todo, num_items=len(items))
    except KeyboardInterrupt as stop:
        kept = "what is finished is kept, and long videos up to half a minute ago"
        left = _left_undone(inputs, ledger)
        print(f"\ninterrupted; {kept}; the same command goes on from there{left}", file=sys.stderr)
        return exit_status(stop)
    except UserError as error:
        error.args = (f"{error}{_left_undone(inputs, ledger)}",)
        raise
    finally:  # also after an error that ends the run: what was done before it is told
        ledger.report()
    return ledger.exit_status


def _left_undone(inputs: Mapping[str, list[Item]], ledger: Ledger) -> str:
    """For the end of a line, where a run ends early."""
    total = sum(map(len, inputs.values()))
    left = total - len(ledger.entries)
    return f"; {left} of {total} items are left undone" if left > 0 else ""


def read_ahead(
    items: Iterable[Item],
    stream: Stream,
    options: ReaderOptions,
    *,
    depth: int,
    skip: Callable[[Item], int],
) -> Generator[tuple[Item, ReadEvent], None, None]:
    """Events of all items, read in processes if that is wanted and possible, else in threads."""
    workers = stream.readers if options.workers is None else options.workers
    if not (workers and stream.in_processes and AVAILABLE):
        threads = workers or stream.readers
        return prefetch(items, stream.rows.read, workers=threads, depth=depth, ahead=stream.ahead, skip=skip)
    return read_in_processes(
        items,
        stream.rows,
        workers=workers,
        depth=depth,
        ahead=max(stream.ahead, 2 * workers),
        timeout_seconds=options.read_timeout,
        memory_gb=options.read_memory,
        skip=skip,
    )


class _Run:
    """The way of one kind of input."""

    def __init__(
        self,
        extractor: Extractor,
        stream: Stream,
        shows: list[Show],
        store: Store,
        ledger: Ledger,
        checks: tuple[FailuresInARow, SpaceCheck],
        readers: ReaderOptions,
        *,
        deterministic: bool,
    ) -> None:
        self._extractor, self._stream, self._ledger, self._store = extractor, stream, ledger, store
        self._failures, self._space = checks
        self._shows, self._readers, self._deterministic = [*extractor.shows, *shows], readers, deterministic
        computing = {"batch_size": extractor.batch_size, "deterministic": deterministic}
        self._parts = store.parts(stream.folder, plain(stream.settings) | computing)

    def over(self, todo: WorkList, *, num_items: int) -> None:
        """The one loop: others read ahead, this thread encodes, one in the background finishes and writes."""
        stream, batch_size = self._stream, self._extractor.batch_size
        with watched(lambda: num_items - todo.num_left_out, unit=stream.unit) as progress:
            for items in todo.rounds():
                skip = self._parts.rows if self._parts else lambda item: 0
                events = read_ahead(items, stream, self._readers, depth=2 * batch_size, skip=skip)
                with Background(depth=stream.ahead) as background, closing(events):
                    started = time.monotonic()
                    for result in encode_batches(
                        events,
                        stream.encode,
                        batch_size,
                        progress.batch,
                        in_order=bool(self._shows) or self._extractor.on_error == "raise",
                        fixed_size=self._deterministic,
                        parts=self._parts,
                    ):
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
            for each in self._shows:
                each.show(features)
            status, reason = ("partial", result.end.damage[0]) if result.end.damage else ("done", "")
            warnings, rows = result.end.warnings, result.rows
            self._drop_part(item)
            self._ledger.add(item, status, reason=reason, warnings=warnings, rows=rows, seconds=seconds)
            self._failures.end()
            self._space.after(item, rows)
        except Exception as error:  # one file's: `_fail` tells whose mistake it is and whether the run can go on
            self._fail(item, error, seconds, "empty" if empty else "failed")
        finally:
            todo.release(item)

    def _fail(self, item: Item, error: Exception, seconds: float, status: Status) -> None:
        """One line for a file that cannot be used; anything else is our mistake, and its traceback is shown as well."""
        if isinstance(error, UserError) and not isinstance(error, MediaError):
            raise error  # concerns the run, not this file: a full disk, say
        self._drop_part(item)
        reason = str(error) if isinstance(error, MediaError) else f"{item.path}: {type(error).__name__}: {error}"
        self._ledger.add(item, status, reason=reason, seconds=seconds)  # TODO crashed
        if not isinstance(error, MediaError):
            logger.error("%s", "".join(traceback.format_exception(error)))
        if self._extractor.on_error == "raise":
            raise error
        logger.warning("%s: %s", status, reason)
        self._failures.add(item, reason, error)

    def _drop_part(self, item: Item) -> None:
        if self._parts:
            self._parts.drop(item)


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
