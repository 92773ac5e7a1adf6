"""Changes to a file in place that happen as a whole or not at all, for formats that a kill in mid-write would ruin.

`Overlay` keeps changes in memory; `commit` brings them to the disk:

1. what lies behind the old end of the file is written there: nothing refers to it yet;
2. what replaces old content goes into `<file>.journal`, which appears whole;
3. the journal is applied to the file and removed.

Whoever opens the file calls `recover` first: a journal that is there was complete, and applying it twice does no harm.
All of it happens under the caller's lock.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import BinaryIO

from store.atomic import atomic_write, remove, storage_error
from utils.errors import UserError

_PAGE_BYTES = 1 << 16


class Overlay:
    """A file object over `base` (None: an empty file) that remembers what is written, and leaves `base` as it is."""

    def __init__(self, base: BinaryIO | None) -> None:
        self._base = base
        self.old_size = base.seek(0, os.SEEK_END) if base else 0
        self.size = self.old_size
        self.pages: dict[int, bytearray] = {}
        self._at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:
        count = max(0, min(len(buffer), self.size - self._at))
        done = 0
        while done < count:
            number, start = divmod(self._at, _PAGE_BYTES)
            step = min(count - done, _PAGE_BYTES - start)
            buffer[done : done + step] = self._page(number)[start : start + step]
            done, self._at = done + step, self._at + step
        return count

    def read(self, count: int = -1) -> bytes:
        buffer = bytearray(max(0, self.size - self._at) if count < 0 else count)
        return bytes(buffer[: self.readinto(memoryview(buffer))])

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            number, start = divmod(self._at, _PAGE_BYTES)
            step = min(len(view) - done, _PAGE_BYTES - start)
            if number not in self.pages:
                self.pages[number] = bytearray(self._page(number))
            self.pages[number][start : start + step] = view[done : done + step]
            done, self._at = done + step, self._at + step
        self.size = max(self.size, self._at)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self.size = self._at if size is None else size
        return self.size

    def flush(self) -> None:
        """Nothing leaves the memory before `commit`."""

    def _page(self, number: int) -> bytes | bytearray:
        if number in self.pages:
            return self.pages[number]
        found = b""
        if self._base and number * _PAGE_BYTES < self.old_size:
            self._base.seek(number * _PAGE_BYTES)
            found = self._base.read(_PAGE_BYTES)
        return found.ljust(_PAGE_BYTES, b"\0")


def commit(overlay: Overlay, path: Path) -> None:
    """Raises UserError where it cannot be written: the file is then as it was."""
    pages = {number * _PAGE_BYTES: bytes(page) for number, page in sorted(overlay.pages.items())}
    if not overlay.old_size:
        with atomic_write(path) as file:
            file.write(b"".join(_cut(start, page, overlay.size) for start, page in pages.items()))
        return
    behind = {start: page for start, page in pages.items() if start >= overlay.old_size}
    replaced = {start: page for start, page in pages.items() if start < overlay.old_size}
    if behind:
        try:
            with path.open("r+b") as file:
                _write_pages(file, behind, overlay.size)
        except OSError as error:
            raise storage_error(path, error) from error
    header = json.dumps({"size": overlay.size, "starts": list(replaced)}).encode() + b"\n"
    content = header + b"".join(replaced.values())
    with atomic_write(_journal(path)) as file:
        file.write(hashlib.sha256(content).digest() + content)
    recover(path)


def recover(path: Path) -> None:
    """Apply a journal that is there. Raises UserError where that is not possible."""
    journal = _journal(path)
    if not journal.exists():
        return
    if not path.exists():  # taken away by its owner: nothing is left to be completed
        remove(journal)
        return
    try:
        data = journal.read_bytes()
        digest, content = data[:32], data[32:]
        if hashlib.sha256(content).digest() != digest:
            raise UserError(f"{journal}: damaged; {path} may be, too: delete both, their items are done again")
        header, _, body = content.partition(b"\n")
        facts = json.loads(header)
        pages = {start: body[k * _PAGE_BYTES : (k + 1) * _PAGE_BYTES] for k, start in enumerate(facts["starts"])}
        with path.open("r+b") as file:
            _write_pages(file, pages, facts["size"])
            file.truncate(facts["size"])
            os.fsync(file.fileno())
        journal.unlink()
    except OSError as error:
        raise storage_error(path, error) from error


def _write_pages(file: BinaryIO, pages: dict[int, bytes], size: int) -> None:
    for start, page in pages.items():
        file.seek(start)
        file.write(_cut(start, page, size))
    file.flush()
    os.fsync(file.fileno())


def _cut(start: int, page: bytes, size: int) -> bytes:
    """The last page ends with the file."""
    return page[: max(0, size - start)]


def _journal(path: Path) -> Path:
    return path.with_name(f"{path.name}.journal")
