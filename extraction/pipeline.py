"""The job behind `python main.py`: inputs -> features -> store and screen -> ledger. Knows no model.

work list -> read_ahead -> encode_batches(encode) -> finish -> save and show
"""

import logging
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from extraction.batching import Encoded, Failed, encode_batches
from extraction.events import ReadEvent, Rows
from extraction.failures import FailuresInARow
from extraction.fork_server import AVAILABLE
from extraction.options import ReaderOptions
from extraction.progress import watched
from extraction.readers import ReaderError, read_in_processes
from extraction.threads import Background, prefetch
from extraction.work_list import WorkList
from store.files import plain
from store.forms import Form
from store.history import History, look_back
from store.items import Store, forms_and_shows
from store.ledger import Ledger, Status
from store.locks import PATIENCE_SECONDS
from store.show import show_all
from store.space import SpaceCheck
from utils.errors import MediaError, UserError, check_flags
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
    overwrite: bool = False,
    flat: bool = False,
    patience_seconds: float = PATIENCE_SECONDS,
    deterministic: bool = True,
    stop_after_failures: int = 10,
) -> int:
    """Run `extractor` over all inputs, save and show the results; the exit status, 0 only if all of it is there.

    Several processes with one `output_path` share the work: see `store.locks`. Items that others hold are waited for,
    as long as one of them comes to an end every `patience_seconds`. With `retry_failed` only what the ledger lists as
    missing is tried, and that includes what killed its reader (twice more: `store.history`). Where results of other
    settings lie, the run is refused, unless they are to be done again (`overwrite`). `flat`: see `store.items.Store`.
    `deterministic`: a row is the same to the bit in whatever company it is computed, as every batch has `batch_size`
    rows. After `stop_after_failures` items in a row that failed for the same reason, which is not in the files, the run
    is stopped; 0 never stops it. Stopped by a signal (`utils.signals`), it ends with its account, and 128 + the
    signal's number.
    """
    check_flags(deterministic=deterministic)
    forms, shows = forms_and_shows(on_extraction)
    if flat and forms and "text" in inputs and len(inputs) > 1:
        raise UserError("flat=true: texts have the names of their images: give them a run and an output_path each")
    streams = {kind: extractor.streams[kind] for kind in inputs}
    account = Path(output_path) / "ledger.jsonl" if forms else None
    history = look_back(account, [stream.folder for stream in streams.values()], retry_failed=retry_failed)
    inputs = history.still_missing(inputs) if retry_failed else inputs
    listed = {kind: {"folder": stream.folder, **plain(stream.settings)} for kind, stream in streams.items()}
    run = _Run(
        extractor,
        Store(output_path, forms, overwrite=overwrite, flat=flat),
        Ledger(account, settings=listed),
        [*extractor.shows, *shows],
        FailuresInARow(stop_after_failures),
        readers,
        deterministic,
    )
    logger.info("found %s", ", ".join(f"{len(items)} {kind}s" for kind, items in inputs.items()) or "nothing")
    try:
        with run.store.session(run.ledger):
            for kind, stream in streams.items():
                run.store.settle(stream.folder, kind, plain(stream.settings))
            for kind, items in inputs.items():
                _OneKind(run, kind, items, history, patience_seconds).go(shows=bool(shows))
    except KeyboardInterrupt as stop:
        kept = "what is finished is kept, and long videos up to half a minute ago"
        left = _left_undone(inputs, run.ledger)
        print(f"\ninterrupted; {kept}; the same command goes on from there{left}", file=sys.stderr)
        return exit_status(stop)
    except UserError as error:
        error.args = (f"{error}{_left_undone(inputs, run.ledger)}",)
        raise
    finally:  # also after an error that ends the run: what was done before it is told
        run.ledger.report()
    return run.ledger.exit_status


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


@dataclass(frozen=True)
class _Run:
    """What is the same for all kinds of input."""

    extractor: Extractor
    store: Store
    ledger: Ledger
    shows: list[Show]
    failures: FailuresInARow
    readers: ReaderOptions
    deterministic: bool


class _OneKind:
    """The way of the items of one kind."""

    def __init__(self, run: _Run, kind: str, items: list[Item], history: History, patience_seconds: float) -> None:
        self._run, self._items, self._history, self._patience_seconds = run, items, history, patience_seconds
        self._stream = stream = run.extractor.streams[kind]
        self._settings = plain(stream.settings)
        self._space = SpaceCheck(run.store, items, stream.folder, self._settings, rows_known=kind != "video")
        computing = {"batch_size": run.extractor.batch_size, "deterministic": run.deterministic}
        self._parts = run.store.parts(stream.folder, self._settings | computing)

    def go(self, *, shows: bool) -> None:
        """The one loop: others read ahead, this thread encodes, one in the background finishes and writes.

        `shows`: what is done is still wanted, to be shown.
        """
        run, stream, batch_size = self._run, self._stream, self._run.extractor.batch_size
        todo = WorkList(
            *(self._items, stream.folder, self._settings, run.store, run.ledger),
            shows=shows,
            looks=run.extractor.on_error != "raise",  # then the first in line counts
            history=self._history,
            patience_seconds=self._patience_seconds,
        )
        skip = self._parts.rows if self._parts else lambda item: 0
        with watched(lambda: len(self._items) - todo.num_left_out, unit=stream.unit) as progress:
            for items in todo.rounds():
                events = read_ahead(items, stream, run.readers, depth=2 * batch_size, skip=skip)
                with Background(depth=stream.ahead) as background, closing(events):
                    started = time.monotonic()
                    for result in encode_batches(
                        *(events, stream.encode, batch_size, progress.batch),
                        in_order=bool(run.shows) or run.extractor.on_error == "raise",
                        fixed_size=run.deterministic,
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
            self._run.store.save(features)
            show_all(self._run.shows, features, saving=bool(self._run.store.forms))
            status, reason = ("partial", result.end.damage[0]) if result.end.damage else ("done", "")
            warnings, rows = result.end.warnings, result.rows
            self._drop_part(item)
            self._run.ledger.add(item, status, reason=reason, warnings=warnings, rows=rows, seconds=seconds)
            self._run.failures.end()
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
        crashed = isinstance(error, ReaderError)
        self._run.ledger.add(item, status, reason=reason, seconds=seconds, crashed=crashed)
        if not isinstance(error, MediaError):
            logger.error("%s", "".join(traceback.format_exception(error)))
        if self._run.extractor.on_error == "raise":
            raise error
        logger.warning("%s: %s", status, reason)
        self._run.failures.add(item, reason, error)

    def _drop_part(self, item: Item) -> None:
        if self._parts:
            self._parts.drop(item)
