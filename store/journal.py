"""`meta.jsonl`: the records of all items of a folder in one file, for those who don't want a meta file for each.

A line an item, the last one of it counts. What most have in common (settings, software) stands in a line of its own,
which the others name. Lines are only ever added, each whole (`store.ledger.append_line`): several processes may do so
at the same time. A line is written after the files it speaks of, so that what has a line is complete; one that a kill
or a power cut took away costs its item once more, never more.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from store.files import encode
from store.ledger import append_line
from store.record import Record, parse_record, record_bytes
from utils.errors import UserError

JOURNAL = "meta.jsonl"
_COMMON = ("software", "weights", "device")  # of the provenance
_SYNC_SECONDS = 5.0


class Journal:
    """The records in one file. Nothing is written before the first `write`. Usable from any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[str, tuple[int, int]] = {}  # by item: where its line starts, how long it is
        self._common: dict[str, dict[str, Any]] = {}
        self._read_bytes, self._synced_at = 0, time.monotonic()
        self._lock = threading.RLock()

    def read(self, item: str) -> Record | None:
        """None where there is none that can be used. UserError if the file cannot be read."""
        with self._lock:
            self._read_on()
            return self._record(item)[1]

    def records(self) -> Iterator[tuple[str, str, Record | None]]:
        """(item, folder as `Features` has it, record) of every item; None for a line that cannot be used."""
        with self._lock:
            self._read_on()
            items = list(self._lines)
        for item in items:
            yield item, *self._record(item)

    def write(self, folder: str, record: Record) -> None:
        """UserError if it cannot be written."""
        content = json.loads(record_bytes(record))
        provenance = content.pop("provenance")
        common: dict[str, Any] = {"folder": folder, "settings": content.pop("settings")}
        common["provenance"] = {key: provenance.pop(key) for key in _COMMON if key in provenance}
        name = hashlib.sha256(encode(common)).hexdigest()[:16]
        with self._lock:
            if name not in self._common:
                append_line(self.path, {"common": name} | common)
                self._common[name] = common
        append_line(self.path, content | {"common": name, "provenance": provenance})
        if time.monotonic() - self._synced_at > _SYNC_SECONDS:
            self.sync()

    def remove(self, item: str) -> None:
        """What is there of it counts no longer."""
        if self.read(item) is not None:
            append_line(self.path, {"item": item, "removed": True})

    def sync(self) -> None:
        """Makes the lines safe against a power cut; until then that costs their items once more."""
        self._synced_at = time.monotonic()
        with suppress(OSError):  # not there: nothing was saved
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _record(self, item: str) -> tuple[str, Record | None]:
        if item not in self._lines:
            return "", None
        start, length = self._lines[item]
        with self.path.open("rb") as file:
            file.seek(start)
            content = json.loads(file.read(length))
        common = self._common.get(str(content.pop("common", "")), {})
        content["settings"] = common.get("settings")
        if isinstance(content.get("provenance"), dict):
            content["provenance"] |= common.get("provenance", {})
        return str(common.get("folder", "")), parse_record(json.dumps(content))

    def _read_on(self) -> None:
        """What others have added since; a line that is damaged, or still being written, is passed over."""
        try:
            size = self.path.stat().st_size
            if size == self._read_bytes:
                return
            if size < self._read_bytes:  # another file
                self._lines, self._common, self._read_bytes = {}, {}, 0
            with self.path.open("rb") as file:
                file.seek(self._read_bytes)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    with suppress(ValueError, RecursionError):
                        self._take(json.loads(line), self._read_bytes, len(line))
                    self._read_bytes += len(line)
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}): see to it") from error

    def _take(self, line: Any, start: int, length: int) -> None:
        if not isinstance(line, dict):
            return
        if isinstance(line.get("item"), str):
            if line.get("removed"):
                self._lines.pop(line["item"], None)
            else:
                self._lines[line["item"]] = start, length
        elif isinstance(line.get("settings"), dict) and isinstance(line.get("provenance"), dict):
            self._common[str(line.get("common"))] = line
