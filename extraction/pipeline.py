"""The job behind `python main.py`: inputs -> features -> handlers -> ledger. Knows no model.

work list -> prefetch(read) -> encode_batches(encode) -> finish -> handlers
"""

import logging
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from extraction.batching import Background, Encoded, End, Failed, Prepared, Start, encode_batches, prefetch
from extraction.progress import watched
from extraction.work_list import WorkList
from store.atomic import remove_leftovers
from store.claims import Claims
from store.ledger import Ledger
from utils.errors import MediaError, UserError
from utils.types import Features, Handler, Item

logger = logging.getLogger(__name__)

LEFTOVER_SECONDS = 3600.0  # nobody writes one file for so long
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
    on_error: Any  # "skip", "partial" or "raise"
    streams: Mapping[str, Any]  # kind of input ("video", "image", "text") -> Stream

    @property
    def handlers(self) -> list[Handler]: ...


def extract(
    *,
    inputs: Mapping[str, list[Item]],
    extractor: Extractor,
    on_extraction: dict[str, Handler] | list[Handler],
    output_path: str | Path = "./output",
    lease_seconds: float = 60,
) -> int:
    """Run `extractor` over all inputs and hand the results on; the exit status, 0 only if nothing failed.

    Several processes with one `output_path` share the work: see `store.claims`.
    """
    handlers = list(on_extraction.values()) if isinstance(on_extraction, dict) else list(on_extraction)
    if not handlers:
        raise UserError(
            "on_extraction=[] (captions: on_caption=[]): expected print or another of this group, or a list of them"
        )
    saves = any(handler.saves for handler in handlers)
    streams = {kind: extractor.streams[kind] for kind in inputs}
    settings = {kind: {"folder": stream.folder, **stream.settings} for kind, stream in streams.items()}
    ledger = Ledger(Path(output_path) / "ledger.jsonl" if saves else None, settings=settings)
    logger.info("found %s", ", ".join(f"{len(items)} {kind}s" for kind, items in inputs.items()) or "nothing")
    claims: AbstractContextManager[Claims | None] = nullcontext()
    if saves:
        claims = Claims(Path(output_path), lease_seconds=lease_seconds)
    try:
        with claims as held:
            for kind, items in inputs.items():
                _Run(extractor, streams[kind], handlers, ledger, held).over(items)
                if saves:
                    folder = Path(output_path) / streams[kind].folder
                    remove_leftovers(folder, older_than_seconds=LEFTOVER_SECONDS)
    except KeyboardInterrupt:
        print("\ninterrupted; what is finished is kept, the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    finally:  # also after an error that ends the run: what was done before it is told
        _report(ledger)
    return ledger.exit_status


class _Run:
    """The way of one kind of input."""

    def __init__(
        self, extractor: Extractor, stream: Stream, handlers: list[Handler], ledger: Ledger, claims: Claims | None
    ) -> None:
        self._extractor, self._stream, self._ledger, self._claims = extractor, stream, ledger, claims
        self._handlers = handlers

    def over(self, items: list[Item]) -> None:
        """The one loop: threads read ahead, this thread encodes, one in the background finishes and writes."""
        stream, batch_size = self._stream, self._extractor.batch_size
        todo = WorkList(
            items,
            folder=stream.folder,
            settings=stream.settings,
            handlers=self._handlers,
            claims=self._claims,
            ledger=self._ledger,
        )
        with (
            watched(lambda: len(items) - todo.num_left_out, unit=stream.unit) as progress,
            Background(depth=stream.ahead) as background,
        ):
            events = prefetch(todo, stream.read, workers=stream.readers, depth=2 * batch_size, ahead=stream.ahead)
            with closing(events):
                started = time.monotonic()
                for result in encode_batches(events, stream.encode, batch_size, progress):
                    background.run(self._hand_on, result, todo, time.monotonic() - started)
                    progress.item(result.rows if isinstance(result, Encoded) else 0)
                    started = time.monotonic()

    def _hand_on(self, result: Encoded | Failed, todo: WorkList, seconds: float) -> None:
        """Finish one item, hand it to every handler, enter what became of it."""
        item = result.item
        try:
            if isinstance(result, Failed):
                self._fail(item, result.error, seconds)
            elif not result.rows:
                error = MediaError(f"{item.path}: no {self._stream.unit} came out of this file")
                self._fail(item, error, seconds, status="empty")
            elif not todo.is_mine(item):
                self._ledger.add(item, "elsewhere", reason="taken over by another process while this one was held up")
            else:
                self._hand_on_encoded(result, seconds)
        finally:
            todo.release(item)

    def _hand_on_encoded(self, result: Encoded, seconds: float) -> None:
        try:
            features = self._stream.finish(result)
            for handler in [*self._extractor.handlers, *self._handlers]:
                handler(features)
        except Exception as error:  # one file's: `_fail` tells whose mistake it is and whether the run can go on
            self._fail(result.item, error, seconds)
            return
        damage = result.end.facts.get("damage")
        self._ledger.add(
            result.item,
            "partial" if damage else "done",
            reason="; ".join(damage[:1]) if damage else "",
            warnings=result.end.warnings,
            rows=result.rows,
            seconds=seconds,
        )

    def _fail(
        self, item: Item, error: Exception, seconds: float, status: Literal["failed", "empty"] = "failed"
    ) -> None:
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


def _report(ledger: Ledger) -> None:
    """What became of the run, on stderr: stdout is for results."""
    ledger.finish()
    for line in ledger.problems():
        print(line, file=sys.stderr)
    print(ledger.summary(), file=sys.stderr)
