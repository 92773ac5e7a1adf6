"""The job behind `python main.py`: inputs -> frames -> features -> handlers -> ledger. Knows no model.

items -> prefetch(read) -> encode_batches(encode) -> finish -> handlers
"""

import logging
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from utils.batching import Encoded, End, Failed, Sample, Start, encode_batches, prefetch
from utils.errors import MediaError, UserError
from utils.media.inputs import find_videos
from utils.progress import progress_bar
from utils.store.ledger import Ledger
from utils.types import Features, Handler, Item

logger = logging.getLogger(__name__)

READERS = 2  # files read at the same time; each decoder has threads of its own
INTERRUPTED = 130  # exit status of a program stopped with Ctrl-C


class Extractor(Protocol):
    """What the pipeline needs to know of `feature_type`."""

    folder: str  # "clip/ViT-B_32": where results stand below output_path
    settings: dict[str, Any]  # what the numbers depend on
    batch_size: int
    on_error: Any  # "skip", "partial" or "raise"

    @property
    def handlers(self) -> list[Handler]: ...

    def read(self, item: Item) -> Iterator[Start | Sample | End]: ...

    def encode(self, pixels: Sequence[Any]) -> np.ndarray: ...

    def finish(self, encoded: Encoded) -> Features: ...


def extract(
    *,
    extractor: Extractor,
    on_extraction: dict[str, Handler] | list[Handler],
    video_paths: str | list[str] | None = None,
    file_with_video_paths: str | None = None,
    output_path: str | Path = "./output",
) -> int:
    """Run `extractor` over all inputs and hand the results on; the exit status, 0 only if nothing failed."""
    handlers = list(on_extraction.values()) if isinstance(on_extraction, dict) else list(on_extraction)
    if not handlers:
        raise UserError("on_extraction=[]: expected print, save_numpy or save_pickle, or a list of them")
    items = find_videos(video_paths, file_with_video_paths)
    saves = any(handler.saves for handler in handlers)
    path = Path(output_path) / "ledger.jsonl" if saves else None
    ledger = Ledger(path, settings={"folder": extractor.folder, **extractor.settings})
    logger.info("found %d videos", len(items))
    try:
        _run(extractor, handlers, items, ledger)
    except KeyboardInterrupt:
        print("\ninterrupted; what is finished is kept, the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    finally:  # also after an error that ends the run: what was done before it is told
        _report(ledger)
    return ledger.exit_status


def _run(extractor: Extractor, handlers: list[Handler], items: list[Item], ledger: Ledger) -> None:
    """The one loop."""
    todo = list(_still_to_do(extractor, handlers, items, ledger))
    if not todo:
        return
    handlers = [*extractor.handlers, *handlers]
    with progress_bar(len(todo)) as progress:
        events = prefetch(todo, extractor.read, workers=READERS, depth=2 * extractor.batch_size)
        with closing(events):  # pyright: ignore[reportArgumentType]
            timed = progress.timed_events(events)
            started = time.monotonic()
            for result in encode_batches(timed, progress.timed_encode(extractor.encode), extractor.batch_size):
                rows = _hand_on(extractor, handlers, result, ledger, time.monotonic() - started)
                progress.finish_item(result.item, rows)
                started = time.monotonic()
    if progress.num_frames:
        logger.info("%d frames, %.1f frames/s, %s", progress.num_frames, progress.rate, progress.limit)


def _still_to_do(extractor: Extractor, handlers: list[Handler], items: list[Item], ledger: Ledger) -> Iterator[Item]:
    """Items that some handler is not done with; the others are entered as skipped."""
    for item in items:
        if all(handler.done(item, extractor.folder, extractor.settings) for handler in handlers):
            ledger.add(item, "skipped", reason="done before, with these settings")
        else:
            yield item


def _hand_on(
    extractor: Extractor, handlers: list[Handler], result: Encoded | Failed, ledger: Ledger, seconds: float
) -> int:
    """Finish one item and hand it to every handler; the number of its rows, 0 where it failed."""
    if isinstance(result, Failed):
        _fail(extractor, result.item, result.error, ledger, seconds)
        return 0
    if not len(result.features):
        error = MediaError(f"{result.item.path}: no frames came out of this file")
        _fail(extractor, result.item, error, ledger, seconds, status="empty")
        return 0
    try:
        features = extractor.finish(result)
        for handler in handlers:
            handler(features)
    except Exception as error:  # one file's: `_fail` tells whose mistake it is and whether the run can go on
        _fail(extractor, result.item, error, ledger, seconds)
        return 0
    damage = result.end.facts.get("damage")
    ledger.add(
        result.item,
        "partial" if damage else "done",
        reason="; ".join(damage[:1]) if damage else "",
        warnings=result.end.warnings,
        rows=len(result.features),
        seconds=seconds,
    )
    return len(result.features)


def _fail(
    extractor: Extractor,
    item: Item,
    error: Exception,
    ledger: Ledger,
    seconds: float,
    status: Literal["failed", "empty"] = "failed",
) -> None:
    """One line for a file that cannot be used; anything else is our mistake, and its traceback is shown as well."""
    if isinstance(error, UserError) and not isinstance(error, MediaError):
        raise error  # concerns the run, not this file: a full disk, say
    reason = str(error) if isinstance(error, MediaError) else f"{item.path}: {type(error).__name__}: {error}"
    ledger.add(item, status, reason=reason, seconds=seconds)
    if not isinstance(error, MediaError):
        logger.error("%s", "".join(traceback.format_exception(error)))
    if extractor.on_error == "raise":
        raise error
    logger.warning("%s: %s", status, reason)


def _report(ledger: Ledger) -> None:
    """What became of the run, on stderr: stdout is for results."""
    ledger.finish()
    for line in ledger.problems():
        print(line, file=sys.stderr)
    print(ledger.summary(), file=sys.stderr)
