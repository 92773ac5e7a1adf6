"""Does what was saved still stand? The rule by which a run skips what an earlier one did."""

import logging
from typing import Any

from store.plain_json import plain
from store.record import Record, same_source, setting_changes
from utils.types import Item

logger = logging.getLogger(__name__)


class UpToDate:
    """True for a record with today's settings and source. Says why not, for each kind of change once."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def __call__(self, record: Record, item: Item, settings: dict[str, Any]) -> bool:
        wanted = plain(settings)
        # Settings recorded beyond today's (predictions that nobody asks for now) do no harm.
        recorded = {key: value for key, value in record.settings.items() if key in wanted}
        if recorded != wanted:
            self._warn_changed(item, setting_changes(recorded, wanted))
            return False
        if not same_source(record.source, item):
            logger.warning("%s: has changed since its results were saved: done again", item.path)
            return False
        return True

    def _warn_changed(self, item: Item, changes: str) -> None:
        # Once for each kind of change: ten thousand items with the same one would hide everything else.
        if changes not in self._warned:
            self._warned.add(changes)
            logger.warning(
                "%s: saved under other settings (%s): done again, as is every other item with this difference",
                item.path,
                changes,
            )
