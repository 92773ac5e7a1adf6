"""What earlier runs said of today's inputs, out of `ledger.jsonl`: which failed, and which killed their reader."""

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
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

    def still_missing(self, inputs: Mapping[str, list[Item]]) -> dict[str, list[Item]]:
        """Of today's inputs those that are `missing`; a line says how many."""
        found = {kind: [item for item in items if self._is_missing(item)] for kind, items in inputs.items()}
        wanted, given = (sum(map(len, each.values())) for each in (found, inputs))
        logger.info("retry_failed=true: %d of %d inputs are listed as failed, the others are left out", wanted, given)
        return found

    def _is_missing(self, item: Item) -> bool:
        return (os.path.abspath(item.path), item.name) in self.missing

    def refusal(self, item: Item) -> str:
        """Why this item is not to be tried again; empty where it may be."""
        crashes = self.crashes.get(os.path.abspath(item.path)) if self.crashes else None
        if crashes is None or not crashes.of_today(item.path):
            return ""
        if crashes.number >= MAX_CRASHES:
            return f"{crashes.reason}; {crashes.number} times by now: not tried again until the file is replaced"
        return "" if self.retry_failed else f"{crashes.reason}; not tried again: retry_failed=true does"


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
    wanted, crashes, missing = set(folders), dict[str, Crashes](), set[_Key]()
    runs: dict[str, bool] = {}  # of extractions: whether their results are today's
    for line in _lines(ledger, lambda: bool(crashes or missing)):
        run = str(line.get("run"))
        if line.get("event") == "run":
            runs |= {run: not wanted.isdisjoint(of_run)} if (of_run := _folders(line)) else {}
        if line.get("event") != "item" or run not in runs:
            continue
        status = line.get("status")
        key = os.path.abspath(str(line.get("path"))), str(line.get("item"))
        if status in _THERE:
            crashes.pop(key[0], None)
        elif line.get("crashed") is True:
            crashes[key[0]] = _one_more(crashes.get(key[0]), line)
        if retry_failed and runs[run]:
            (missing.discard if status in _THERE else missing.add)(key)
    return History(crashes, frozenset(missing), retry_failed)


def _lines(ledger: Path, remembers: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """Parsed; but of what went well only as long as something is remembered that it could clear (ten times as fast)."""
    try:
        with ledger.open("rb") as file:
            for line in file:
                if not remembers() and any(mark in line for mark in _MARKS):
                    continue
                with suppress(ValueError, RecursionError):
                    value = json.loads(line)
                    if isinstance(value, dict):
                        yield value
    except FileNotFoundError:
        return
    except (IsADirectoryError, NotADirectoryError) as error:
        raise storage_error(ledger, error) from error
    except OSError as error:
        raise UserError(
            f"{ledger}: the account of earlier runs cannot be read ({error.strerror}): see to it"
        ) from error


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
