"""What is done of a long item, kept on the disk before all of it is: `<folder>/.parts/<hash>/`.

Rows lie there in one file an array, and `part.json` beside them says how many of them count, of which source and under
which settings. It is replaced as a whole, and only once the rows it speaks of are on the disk: killed at any moment, a
run goes on from there. Rows behind those that count are cut off; a part that is damaged, or of another source, other
settings or other software, is thrown away. The item's lock (`store.locks`) protects its part.
"""

import hashlib
import json
import logging
import math
import mmap
import os
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from store.files import atomic_write, plain, storage_error
from store.locks import Locks
from store.record import item_source
from utils.errors import MediaError
from utils.types import Item, Source

logger = logging.getLogger(__name__)

PARTS, FACTS = ".parts", "part.json"
CHUNK_BYTES = 16 * 2**20  # no more rows of an item are held in memory
CHUNK_SECONDS = 30.0  # so much work a kill may cost; shorter and smaller items never touch the disk
FORGOTTEN_SECONDS = 7 * 24 * 3600.0
_BLOCK_BYTES = 2**20
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)  # of what stands in the files


class Part:
    """The first rows of one item. All arrays have a row for each of the item's rows."""

    def __init__(self, home: Path, head: dict[str, Any], source: Source) -> None:
        """Takes over what is there of the same `head`: plain JSON."""
        self.source = source
        self.rows = 0  # in the files
        self._home, self._head = home, head
        self._arrays: dict[str, dict[str, Any]] = {}  # name -> {"dtype", "shape" of a row}, file after file
        self._chunks: list[dict[str, Any]] = []  # {"rows", "crc32": [of each file's bytes]}
        self._sums: list[int] = []  # CRC-32 of what came since the last chunk
        self._uncounted_rows, self._kept_at = 0, time.monotonic()
        if home.exists():
            try:
                self._take_over(json.loads((home / FACTS).read_bytes()))
            except _DAMAGE:
                remove_part(home)

    def is_due(self, num_bytes: int) -> bool:
        """Whether rows of so many bytes should be written now."""
        return num_bytes >= CHUNK_BYTES or time.monotonic() - self._kept_at >= CHUNK_SECONDS

    def wait(self) -> None:
        """The next rows are due `CHUNK_SECONDS` from now."""
        self._kept_at = time.monotonic()

    def add(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write further rows; every `CHUNK_SECONDS` they are made to count. UserError if they cannot be written."""
        try:
            if not self._arrays:
                self._home.mkdir(parents=True, exist_ok=True)
                self._arrays = {
                    name: {"dtype": str(each.dtype), "shape": list(each.shape[1:])} for name, each in arrays.items()
                }
                self._sums = [0 for _ in self._arrays]
            for number, name in enumerate(self._arrays):
                rows = np.ascontiguousarray(arrays[name]).data.cast("B")
                with self._file(number).open("ab" if self.rows else "wb") as file:
                    file.write(rows)
                self._sums[number] = zlib.crc32(rows, self._sums[number])
        except OSError as error:
            raise storage_error(self._home, error) from error
        num_rows = len(next(iter(arrays.values())))
        self.rows, self._uncounted_rows = self.rows + num_rows, self._uncounted_rows + num_rows
        if time.monotonic() - self._kept_at >= CHUNK_SECONDS:
            self._keep()

    def arrays(self) -> dict[str, np.ndarray]:
        """All rows, (rows, ...) by name: mapped, not in memory; see `let_go`."""
        found = {}
        for number, (name, facts) in enumerate(self._arrays.items()):
            shape = (self.rows, *facts["shape"])
            # Plain arrays whose values are mapped: forms need not know.
            found[name] = np.asarray(np.memmap(self._file(number), facts["dtype"], "r", shape=shape))
        return found

    def drop(self) -> None:
        if self._arrays:
            remove_part(self._home)
        self.rows, self._arrays = 0, {}

    def _keep(self) -> None:
        """First the rows are on the disk, then their number."""
        try:
            for number in range(len(self._arrays)):
                with self._file(number).open("rb") as file:
                    os.fsync(file.fileno())
        except OSError as error:
            raise storage_error(self._home, error) from error
        self._chunks.append({"rows": self._uncounted_rows, "crc32": self._sums})
        self._sums, self._uncounted_rows = [0 for _ in self._arrays], 0
        facts = self._head | {"arrays": self._arrays, "chunks": self._chunks}
        with atomic_write(self._home / FACTS) as file:
            file.write(json.dumps(facts).encode())
        self._kept_at = time.monotonic()

    def _take_over(self, facts: dict[str, Any]) -> None:
        """Raises one of _DAMAGE for a part that cannot be used."""
        if {key: facts.get(key) for key in self._head} != self._head:
            raise ValueError("of something else")
        arrays, chunks = facts["arrays"], facts["chunks"]
        rows = sum(chunk["rows"] for chunk in chunks)
        for number, each in enumerate(arrays.values()):
            dtype = np.dtype(each["dtype"])
            row_bytes = dtype.itemsize * math.prod(each["shape"])
            with self._file(number).open("r+b") as file:
                whole = os.fstat(file.fileno()).st_size >= rows * row_bytes and not dtype.hasobject
                if not whole or any(
                    _crc32(file, row_bytes * chunk["rows"]) != chunk["crc32"][number] for chunk in chunks
                ):
                    raise ValueError("damaged")
                file.truncate(rows * row_bytes)
        self.rows, self._arrays, self._chunks = rows, arrays, chunks
        self._sums = [0 for _ in arrays]

    def _file(self, number: int) -> Path:
        return self._home / f"{number}.rows"


class Parts:
    """The parts of the items of one folder of results that this process works on. Usable from any thread."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """`settings`: all that the bytes of a row depend on, plain JSON."""
        self._folder, self._settings = folder, plain(settings)
        self._open: dict[str, Part | None] = {}

    def rows(self, item: Item) -> int:
        """So many rows of the item are there from an earlier run."""
        part = self.of(item)
        if part is None or not part.rows:
            return 0
        logger.info("%s: goes on after %d rows of an interrupted run", item.path, part.rows)
        return part.rows

    def of(self, item: Item) -> Part | None:
        """None where the source cannot be looked at: who reads it says why."""
        if item.name not in self._open:
            with suppress(MediaError):
                source = item_source(item)
                known = {key: value for key, value in asdict(source).items() if key != "path"}  # it may be moved
                head = {"format": 1, "item": item.name, "settings": self._settings, "source": known}
                self._open[item.name] = Part(part_path(self._folder, item.name), head, source)
        return self._open.setdefault(item.name, None)

    def drop(self, item: Item) -> None:
        """Once the item is complete, or given up."""
        part = self._open.pop(item.name, None)
        if part is not None:
            part.drop()


def part_path(folder: Path, name: str) -> Path:
    return folder / PARTS / hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def remove_part(home: Path) -> None:
    """The facts first: without them the rest means nothing. What cannot be removed is not used either."""
    with suppress(OSError):
        (home / FACTS).unlink(missing_ok=True)
        if home.exists():
            shutil.rmtree(home, ignore_errors=True)
        home.parent.rmdir()  # where it is empty


def remove_forgotten(folder: Path, lock_of_item: str, locks: Locks) -> None:
    """Parts that nobody has gone on with for a week, and of items that nobody is at. `lock_of_item`: "clip/x/{}"."""
    for home in (folder / PARTS).glob("*"):
        with suppress(*_DAMAGE):
            newest = max(path.stat().st_mtime for path in (home, *home.iterdir()))
            if time.time() - newest < FORGOTTEN_SECONDS:
                continue
            name = json.loads((home / FACTS).read_bytes())["item"] if (home / FACTS).exists() else home.name
            if locks.take(lock := lock_of_item.format(name)):
                remove_part(home)
                locks.release(lock)


def slices(array: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of an array, or of a dataset of HDF5, in pieces of some megabytes: not all are in memory at once."""
    rows = array if array.ndim else np.asarray(array[()])[np.newaxis]
    step = max(1, CHUNK_BYTES // max(1, rows[:1].nbytes))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]
        let_go([array])


def let_go(arrays: Iterable[np.ndarray]) -> None:
    """Of mapped arrays, what was read: the system may otherwise count all of it as this process's memory."""
    for array in arrays:
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            base.madvise(mmap.MADV_DONTNEED)


def _crc32(file: Any, num_bytes: int) -> int:
    """Of the next bytes."""
    found = 0
    while num_bytes > 0 and (block := file.read(min(num_bytes, _BLOCK_BYTES))):
        found = zlib.crc32(block, found)
        num_bytes -= len(block)
    return found
