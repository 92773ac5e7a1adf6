"""Files that are being written, and tell whether their writer lives: it holds a lock on each (`flock`).

The system frees the lock the moment the process ends, however it ends. So what killed processes left behind is known
and removed at once, and what others are writing stays, on disks that have locks; on others, age has to tell.
"""

import errno
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from utils.signals import fleeting

# With the dots, the random part and ".part" at most 143 bytes: fits every common file system, eCryptfs included.
_MAX_NAME_BYTES = 120
NAME = re.compile(r"\..*\.[0-9a-f]{16}\.part", re.DOTALL)
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_OLD_SECONDS = 3600.0  # without locks: nobody writes one file for so long

_cleaned: set[Path] = set()  # folders that this process has written into


@contextmanager
def part_file(path: Path) -> Iterator[BinaryIO]:
    """A new file `.<name>.<random>.part` beside `path`, open for reading and writing; its path is its `name`.

    Parent folders are made. After the block the file is gone, unless the block has renamed it. The first one in a
    folder takes those of killed processes away. Raises OSError where none can be made.
    """
    file, temporary = None, path
    try:
        while file is None:  # again where somebody took it for a dead one's, in the instant before it was locked
            temporary = _new_name(path)
            fleeting.add(str(temporary))
            file = _locked(temporary)
        yield file
    finally:
        if file is not None:
            with suppress(OSError):  # closing flushes, which fails once more on a full disk
                file.close()
        if temporary is not path:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            fleeting.discard(str(temporary))


def remove_leftovers(folder: Path, *, below: bool = False) -> None:
    """What killed processes left half written in `folder`, or also `below` it; nothing that is still being written."""
    for place, folders, names in os.walk(folder):
        if not below:
            folders.clear()
        for name in names:
            if name.endswith(".part") and NAME.fullmatch(name):
                with suppress(OSError):  # gone already, or not ours to remove: in nobody's way
                    _remove_if_dead(Path(place, name))


def _new_name(path: Path) -> Path:
    start = os.fsencode(path.name)[:_MAX_NAME_BYTES].decode("utf-8", "ignore")
    return path.with_name(f".{start}.{secrets.token_hex(8)}.part")


def _locked(temporary: Path) -> BinaryIO | None:
    """None where it is gone again. Not with `tempfile`: results get the permissions of every other new file (umask)."""
    file = _created(temporary)
    _lock(file, wait=True)
    try:
        if os.name != "posix" or os.path.samestat(os.fstat(file.fileno()), os.stat(temporary)):
            return file
    except FileNotFoundError:
        pass
    file.close()
    return None


def _created(temporary: Path) -> BinaryIO:
    folder = temporary.parent
    if folder not in _cleaned:
        _cleaned.add(folder)
        remove_leftovers(folder)
    for _ in range(10):
        with suppress(FileNotFoundError, FileExistsError):  # another process has just removed the folder, being empty
            folder.mkdir(parents=True, exist_ok=True)
            return temporary.open("x+b")
    folder.mkdir(parents=True, exist_ok=True)
    return temporary.open("x+b")


def _lock(file: BinaryIO, *, wait: bool) -> bool | None:
    """Whether this process holds it now; None where the disk, or the system, has no locks."""
    if os.name != "posix":
        return None
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return False if error.errno in _HELD else None
    return True


def _remove_if_dead(path: Path) -> None:
    with path.open("r+b") as file:  # NFS locks only what may be written
        free = _lock(file, wait=False)
        if free:  # while it is locked: its writer may have made it just now
            path.unlink()
    if free is None and time.time() - path.stat().st_mtime > _OLD_SECONDS:
        path.unlink()
