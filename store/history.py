"""What earlier runs said of today's inputs, out of `ledger.jsonl`: which failed, and which killed their reader."""

import json
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from store.files import storage_error
from utils.errors import UserError, check_flags
from utils.types import Item

logger = logging.getLogger(__name__)

MAX_CRASHES = 3  # the first, and two more with `retry_failed=true`
_THERE = ("done", "skipped", "partial")  # all other items are what `retry_failed=true` works on

_MARKS = tuple(f'"status": "{status}"'.encode() for status in _THERE)  # in a line as the ledger writes it

_Key = tuple[str, str]  # absolute path, name of the item


@dataclass(frozen=True)
class Crashes:
    """How often in a row a file, as it was then, has killed its reader."""

    number: int
    reason: str  # of the last one
    size_bytes: int | None
    mtime: float | None

    def of_today(self, path: Path) -> bool:
        """Whether the file is still the same."""
        try:
            facts = path.stat()
        except (OSError, ValueError):
            return False  # whoever reads it next says so
        return (facts.st_size, facts.st_mtime) == (self.size_bytes, self.mtime)


@dataclass(frozen=True)
class History:
    """`crashes` by absolute path; `missing`: the items of which the last word was that there is no result."""

    crashes: Mapping[str, Crashes] = field(default_factory=dict)
    missing: frozenset[_Key] = frozenset()
    retry_failed: bool = False
    account: "_Account | None" = None  # what processes that share the folder enter meanwhile

    def still_missing(self, inputs: Mapping[str, list[Item]]) -> dict[str, list[Item]]:
        """Of today's inputs those that are `missing`; a line says how many."""
        found = {kind: [item for item in items if self._is_missing(item)] for kind, items in inputs.items()}
        wanted, given = (sum(map(len, each.values())) for each in (found, inputs))
        logger.info("retry_failed=true: %d of %d inputs are listed as failed, the others are left out", wanted, given)
        return found

    def _is_missing(self, item: Item) -> bool:
        return (os.path.abspath(item.path), item.name) in self.missing

    def refusal(self, item: Item) -> str:
        """Why this item is not to be tried again; empty where it may be. In one run nothing is tried again."""
        if self.account is not None:
            self.account.read_on()
        path = os.path.abspath(item.path) if self.crashes else ""
        crashes = self.crashes.get(path)
        if crashes is None or not crashes.of_today(item.path):
            return ""
        if crashes.number >= MAX_CRASHES:
            return f"{crashes.reason}; {crashes.number} times by now: not tried again until the file is replaced"
        just_now = self.account is not None and path in self.account.crashed_meanwhile
        return (
            "" if self.retry_failed and not just_now else f"{crashes.reason}; not tried again: retry_failed=true does"
        )


def look_back(ledger: Path | None, folders: Iterable[str], *, retry_failed: bool) -> History:
    """The history in `ledger`; None: nothing is saved. UserError for a `retry_failed` that has nothing to go by."""
    check_flags(retry_failed=retry_failed)
    if ledger is not None:
        return read_history(ledger, folders, retry_failed=retry_failed)
    if retry_failed:
        raise UserError(
            "retry_failed=true goes by the account beside saved results, and here they are only printed: give the "
            "on_extraction and output_path of the run that failed"
        )
    return History()


def read_history(ledger: Path, folders: Iterable[str], *, retry_failed: bool = False) -> History:
    """Reads `ledger` once, a line at a time; lines that are damaged (cut short by a kill, say) are passed over.

    `folders`: those of today's results, as "clip/ViT-B_32": what failed with another model is no failure here. Crashes
    count whatever the model. What is done is forgiven, and so is a file that was replaced. UserError if it is there
    and cannot be read.
    """
    account = _Account(ledger, set(folders), notes_missing=retry_failed)
    account.read_on()
    account.crashed_meanwhile.clear()
    return History(account.crashes, frozenset(account.missing), retry_failed, account)


class _Account:
    """A ledger, as far as it was read."""

    def __init__(self, ledger: Path, folders: set[str], *, notes_missing: bool) -> None:
        self._ledger, self._folders, self._notes_missing = ledger, folders, notes_missing
        self._read_bytes = 0
        self._runs: dict[str, bool] = {}  # of extractions: whether their results are today's
        self.crashes: dict[str, Crashes] = {}
        self.missing: set[_Key] = set()
        self.crashed_meanwhile: set[str] = set()

    def read_on(self) -> None:
        """What went well is parsed only while something is remembered that it could clear: ten times as fast."""
        try:
            if self._ledger.stat().st_size <= self._read_bytes:
                return
            with self._ledger.open("rb") as file:
                file.seek(self._read_bytes)
                for line in file:
                    if not line.endswith(b"\n"):  # somebody is writing it
                        break
                    self._read_bytes += len(line)
                    if self.crashes or self.missing or not any(mark in line for mark in _MARKS):
                        with suppress(ValueError, RecursionError):
                            self._take(json.loads(line))
        except FileNotFoundError:
            return
        except (IsADirectoryError, NotADirectoryError) as error:
            raise storage_error(self._ledger, error) from error
        except OSError as error:
            reason = error.strerror
            raise UserError(
                f"{self._ledger}: the account of earlier runs cannot be read ({reason}): see to it"
            ) from error

    def _take(self, line: Any) -> None:
        if not isinstance(line, dict):
            return
        run = str(line.get("run"))
        if line.get("event") == "run" and (folders := _folders(line)):
            self._runs[run] = not self._folders.isdisjoint(folders)
        if line.get("event") != "item" or run not in self._runs:
            return
        path, there = os.path.abspath(str(line.get("path"))), line.get("status") in _THERE
        if there:
            self.crashes.pop(path, None)
        elif line.get("crashed") is True:
            self.crashes[path] = _one_more(self.crashes.get(path), line)
            self.crashed_meanwhile.add(path)
        if self._notes_missing and self._runs[run]:
            (self.missing.discard if there else self.missing.add)((path, str(line.get("item"))))


def _folders(line: dict[str, Any]) -> set[str]:
    """Of the results of an extraction; none for `convert`, which has an account of the same kind."""
    settings = line.get("settings")
    of_kinds = settings.values() if isinstance(settings, dict) else ()
    return {str(each["folder"]) for each in of_kinds if isinstance(each, dict) and "folder" in each}


def _one_more(before: Crashes | None, line: dict[str, Any]) -> Crashes:
    now = Crashes(1, str(line.get("reason")), line.get("size_bytes"), line.get("mtime"))
    if before is None or (before.size_bytes, before.mtime) != (now.size_bytes, now.mtime):
        return now
    return replace(now, number=before.number + 1)
