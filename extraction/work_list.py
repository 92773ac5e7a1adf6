"""Which items this process works on: those that nobody has done and no other process is doing."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from store.claims import Claim, Claims
from store.ledger import Ledger, Status
from utils.types import Handler, Item


class WorkList:
    """Claims one item after another, when it is asked for the next; items that are left out go into the ledger.

    An item that another process holds is tried once more at the end: its owner may have died meanwhile. What is still
    held then is entered as `elsewhere`. Without `claims` (nothing is saved) every item is this process's.
    """

    def __init__(
        self,
        items: Iterable[Item],
        *,
        folder: str,
        settings: dict[str, Any],
        handlers: Sequence[Handler],
        claims: Claims | None,
        ledger: Ledger,
    ) -> None:
        self._items, self._folder, self._settings = items, folder, settings
        self._savers = [handler for handler in handlers if handler.saves]
        self._also_shows = len(self._savers) < len(handlers)
        self._claims, self._ledger = claims, ledger
        self._held: dict[Item, Claim] = {}
        self.num_left_out = 0

    def __iter__(self) -> Iterator[Item]:
        busy = []
        for item in self._items:
            saved = self._saved(item)
            if saved and not self._also_shows:
                self._leave_out(item, "skipped", "done before, with these settings")
                continue
            outcome = self._claim(item, saved)
            if outcome == "mine":
                yield item
            elif outcome == "busy":
                busy.append((item, saved))
        for item, saved in busy:
            outcome = self._claim(item, saved)
            if outcome == "mine":
                yield item
            elif outcome == "busy":
                holder = self._claims and self._claims.holder(self._name(item))
                self._leave_out(item, "elsewhere", f"{holder or 'another process'} works on it")

    def is_mine(self, item: Item) -> bool:
        """False where another process has taken the item over, because this one did not answer for too long."""
        return item not in self._held or self._held[item].is_mine()

    def release(self, item: Item) -> None:
        """Once its files are complete, or it is given up."""
        if item in self._held:
            self._held.pop(item).release()

    def _claim(self, item: Item, saved: bool) -> Literal["mine", "done", "busy"]:
        if self._claims is None:
            return "mine"
        claim = self._claims.take(self._name(item))
        if claim is None:
            return "busy"
        if not saved and self._saved(item):  # finished between our look and our claim
            claim.release()
            self._leave_out(item, "skipped", "done by another process meanwhile")
            return "done"
        self._held[item] = claim
        return "mine"

    def _saved(self, item: Item) -> bool:
        return bool(self._savers) and all(saver.done(item, self._folder, self._settings) for saver in self._savers)

    def _name(self, item: Item) -> str:
        return f"{self._folder}/{item.name}"

    def _leave_out(self, item: Item, status: Status, reason: str) -> None:
        self.num_left_out += 1
        self._ledger.add(item, status, reason=reason)
