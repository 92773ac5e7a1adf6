"""The account of a run: what became of every item, on the screen and in `ledger.jsonl`."""

import errno
import os
import secrets
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from store.files import encode, plain, storage_error
from utils.errors import UserError
from utils.types import Item

Status = Literal["done", "skipped", "elsewhere", "partial", "failed", "empty"]
_STATUSES: tuple[Status, ...] = get_args(Status)
_FAILURES: tuple[Status, ...] = ("failed", "empty", "elsewhere")  # what is missing at the end


@dataclass(frozen=True)
class Entry:
    """What became of one item."""

    path: str
    item: str
    status: Status
    reason: str = ""  # why it is not simply done
    warnings: tuple[str, ...] = ()
    rows: int = 0
    seconds: float = 0.0  # time taken
    crashed: bool = (
        False  # whoever read it died of it: see `store.history`; written with its size and time, or not at all
    )


class Ledger:
    """Collects entries and appends each to `path` the moment it is known, so that a killed run keeps its account.

    The file holds one JSON object a line: `{"event": "run", ...}` with the settings, an `"item"` for every item and
    an `"end"` with the counts; all carry the run's id. Several runs may append at the same time. With `path=None`
    (a run that only prints) nothing is written.
    """

    def __init__(self, path: Path | str | None, *, settings: dict[str, Any]) -> None:
        self._path = None if path is None else Path(path)
        self._settings = plain(settings)
        self._started_seconds = time.monotonic()
        self._lock = threading.Lock()
        self._opened = False
        self.run = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        self.entries: list[Entry] = []

    def add(
        self,
        item: Item,
        status: Status,
        *,
        reason: str = "",
        warnings: Sequence[str] = (),
        rows: int = 0,
        seconds: float = 0.0,
        crashed: bool = False,
    ) -> None:
        """Takes one item into account. Raises UserError if the file cannot be written.

        `crashed`: its reader crashed, hung or outgrew its memory. Later runs leave it out until the file is another.
        """
        if status not in _STATUSES:
            raise ValueError(f"status is one of {_STATUSES}, not {status!r}")
        entry = Entry(str(item.path), item.name, status, reason, tuple(warnings), rows, round(seconds, 3), crashed)
        values = asdict(entry)
        if values.pop("crashed"):
            values |= {"crashed": True} | _size_and_time(item.path)
        with self._lock:
            self.entries.append(entry)
            self._append("item", values)

    def finish(self) -> None:
        """Appends the counts. A run without this line was killed."""
        with self._lock:
            seconds = round(time.monotonic() - self._started_seconds, 3)
            self._append("end", {"counts": self.counts, "seconds": seconds})

    @property
    def counts(self) -> dict[str, int]:
        """Entries by status, in a fixed order, without the zeros."""
        found = [entry.status for entry in self.entries]
        return {status: found.count(status) for status in _STATUSES if status in found}

    @property
    def exit_status(self) -> int:
        """0 only if nothing failed, came out empty or was left to a process that did not finish it."""
        return int(any(entry.status in _FAILURES for entry in self.entries))

    def summary(self) -> str:
        """One line: "312 done, 4 skipped, 1 failed (listed in output/ledger.jsonl)"."""
        counts = ", ".join(f"{number} {status}" for status, number in self.counts.items()) or "nothing done"
        return f"{counts} (listed in {self._path})" if self._path and self.entries else counts

    def report(self) -> None:
        """Ends the account and tells it on stderr: stdout is for results."""
        problem = None
        try:
            self.finish()
        except UserError as error:  # the disk is full, say; the screen is not
            problem = error
        for line in (*self.problems(), self.summary()):
            print(line, file=sys.stderr)
        if problem is not None and sys.exc_info()[1] is None:  # else what ends the run is on its way, and says more
            raise problem

    def problems(self, limit: int = 20) -> list[str]:
        """A line for each item that is missing or there only in part; the missing first, at most `limit`."""
        listed = [entry for entry in self.entries if entry.status in _FAILURES]
        listed += [entry for entry in self.entries if entry.status == "partial"]
        lines = [f"{entry.status}: {_with_path(entry)}" for entry in listed[:limit]]
        if len(listed) > limit:
            where = f" (all in {self._path})" if self._path else ""
            lines.append(f"... and {len(listed) - limit} more{where}")
        return lines

    def _append(self, event: str, values: dict[str, Any]) -> None:
        """The lock is held. The settings go out with the first line: a run over nothing leaves no trace."""
        if self._path is None:
            return
        if not self._opened:
            self._opened = True
            append_line(self._path, self._line("run", {"settings": self._settings}))
        append_line(self._path, self._line(event, values))

    def _line(self, event: str, values: dict[str, Any]) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        return {"event": event, "run": self.run, "time": now} | values


def _with_path(entry: Entry) -> str:
    """Most reasons start with the path already."""
    reason = entry.reason or "; ".join(entry.warnings) or "no reason given"
    return reason if reason.startswith(entry.path) else f"{entry.path}: {reason}"


def _size_and_time(path: Path) -> dict[str, Any]:
    """By which a file is known again; nothing where it is gone."""
    with suppress(OSError, ValueError):
        facts = path.stat()
        return {"size_bytes": facts.st_size, "mtime": facts.st_mtime}
    return {}


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Adds one JSON object as a line; lines of several processes never mix. UserError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)  # until it is closed: nobody looks at the end while another is writing there
            line = encode(value) + b"\n"
            if _ends_within_line(descriptor):  # a full disk cut the last one short: lose that one, not this one too
                line = b"\n" + line
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, "short write")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise storage_error(path, error) from error


def _lock(descriptor: int) -> None:
    if os.name == "posix":
        import fcntl

        with suppress(OSError):  # a disk without locks: a single write is nearly as good
            fcntl.flock(descriptor, fcntl.LOCK_EX)


def _ends_within_line(descriptor: int) -> bool:
    size = os.lseek(descriptor, 0, os.SEEK_END)
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
