"""The job behind `--config-name convert`: saved features from one form into another, without a model."""

import logging
import sys
from pathlib import Path

from store.ledger import Ledger
from store.reading import find_saved, read_saved
from utils.errors import MediaError, UserError
from utils.progress_bar import progress_bar
from utils.types import Features, Handler, Item

logger = logging.getLogger(__name__)


def convert(*, input_path: str, on_extraction: dict[str, Handler] | list[Handler], output_path: str | Path) -> int:
    """Hand every item saved below `input_path` to the handlers; the exit status, 0 only if nothing failed.

    Settings and sources go with the features: an extraction into `output_path` later finds its items done.
    """
    handlers = list(on_extraction.values()) if isinstance(on_extraction, dict) else list(on_extraction)
    if not handlers:
        raise UserError("on_extraction=[]: expected save_numpy or another of this group, or a list of them")
    saves = any(handler.saves for handler in handlers)
    found = find_saved(Path(input_path))
    ledger = Ledger(Path(output_path) / "ledger.jsonl" if saves else None, settings={"converted": str(input_path)})
    try:
        for path in progress_bar(found, "convert", unit=" files"):
            for features in read_saved(path):
                if isinstance(features, MediaError):
                    ledger.add(Item(path, path.name), "failed", reason=str(features))
                else:
                    _hand_on(features, handlers, ledger)
    finally:
        ledger.finish()
        for line in ledger.problems():
            print(line, file=sys.stderr)
        print(ledger.summary(), file=sys.stderr)
    return ledger.exit_status


def _hand_on(features: Features, handlers: list[Handler], ledger: Ledger) -> None:
    todo = [handler for handler in handlers if not handler.done(features.item, features.folder, features.settings)]
    if not todo:
        ledger.add(features.item, "skipped", reason="done before")
        return
    try:
        for handler in todo:
            handler(features)
    except MediaError as error:
        ledger.add(features.item, "failed", reason=str(error))
        return
    rows = max((len(array) for array in features.arrays.values() if array.ndim), default=0)
    ledger.add(features.item, "done", rows=rows)
