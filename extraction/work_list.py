"""Which items this process works on: those that nobody has done and no other process is doing."""

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any

from store.history import History
from store.items import Store
from store.ledger import Ledger, Status
from store.locks import PATIENCE_SECONDS
from store.record import item_source
from utils.errors import MediaError
from utils.types import Item

_POLL_SECONDS = 0.2


class WorkList:
    """The items in rounds: first all that are free, then, as they become free, those that other processes held.

    An item is claimed when it is asked for, and is this process's until it is released; items that are left out go
    into the ledger. Between two rounds the caller holds nothing, so that no two processes wait for each other.
    """

    def __init__(
        self,
        items: Iterable[Item],
        folder: str,
        settings: dict[str, Any],
        store: Store,
        ledger: Ledger,
        *,
        shows: bool,
        looks: bool = False,
        history: History | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """`settings` are plain JSON. `shows`: what is done is still wanted, to be shown. `looks`: inputs that are not
        there are entered as failed at once, which takes seconds for a list of 300,000 with another folder in front.
        `history` says what is not to be tried again, because it killed its reader before.
        """
        self._history = history or History()
        self._items, self._folder, self._settings = items, folder, settings
        self._store, self._shows, self._looks, self._ledger = store, shows, looks, ledger
        self._patience_seconds = patience_seconds
        self._busy: list[Item] = []
        self.num_left_out = 0

    def rounds(self) -> Iterator[Iterator[Item]]:
        """Who held an item may have died: then it is free. One that neither comes free nor gets done while none of the
        others does is entered as `elsewhere` after `patience_seconds`: its owner is paused, hangs, or takes very long.
        """
        yield self._claimed(self._items)
        end = time.monotonic() + self._patience_seconds
        while self._busy and time.monotonic() < end:
            waiting, self._busy = self._busy, []
            claimed = self._claimed(waiting)
            first = next(claimed, None)
            if first is not None:
                yield itertools.chain([first], claimed)
            if len(self._busy) < len(waiting):
                end = time.monotonic() + self._patience_seconds
            elif self._busy:
                time.sleep(_POLL_SECONDS)
        for item in self._busy:
            holder = self._store.holder(item, self._folder)
            reason = f"{holder} has held it for {self._patience_seconds:.0f} s without finishing anything"
            self._leave_out(item, "elsewhere", f"{reason}: see whether it hangs, and run the same command again")

    def release(self, item: Item) -> None:
        """Once its files are complete, or it is given up."""
        self._store.release(item, self._folder)

    def _claimed(self, items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            if self._looks and (problem := _missing(item)):
                self._leave_out(item, "failed", problem)
                continue
            saved = self._store.done(item, self._folder, self._settings)
            if saved and not self._shows:
                self._leave_out(item, "skipped", "done before, with these settings")
            elif not saved and (refusal := self._history.refusal(item)):
                self._leave_out(item, "failed", refusal)
            elif not self._store.claim(item, self._folder):
                self._busy.append(item)
            elif not saved and self._store.done(item, self._folder, self._settings):  # between our look and our claim
                self.release(item)
                self._leave_out(item, "skipped", "done by another process meanwhile")
            else:
                yield item

    def _leave_out(self, item: Item, status: Status, reason: str) -> None:
        self.num_left_out += 1
        self._ledger.add(item, status, reason=reason)


def _missing(item: Item) -> str:
    if item.texts:
        return ""
    try:
        item_source(item)
    except MediaError as error:
        return str(error)
    return ""
