"""Which process works on which item: one lock of the operating system an item, so that many can share a folder.

The system frees a lock the moment its process ends, however it ends, and keeps it while the process is only paused:
so an item has one owner at any time, no owner ever loses an item that it is still at, and nothing has to be guessed
from clocks or signs of life. Only items being worked on have a lock, and a file (`<folder>/.locks/<hash>`) for it.

Removing a lock file is the delicate part: who has opened it just before would go on to lock a file without a name,
while the next one makes a new file of that name, and both would hold "the" lock. So a lock counts only if, once it
is held, its file still stands under its name; and only the holder removes the file. Files of processes that were
killed are removed in the same way, by taking their locks.

What is relied on: `flock` that works between all processes and machines that share the folder. Local disks, NFS from
version 4 on, and Lustre mounted with `flock` have it. Disks that say they have none are told from others
(`Locks.working`); one that only pretends to have them cannot be.
"""

import errno
import hashlib
import logging
import os
import platform
import threading
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from store.files import storage_error
from store.shared_locks import SharedLock, share
from utils.signals import fleeting, shielded

logger = logging.getLogger(__name__)

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
_MANY_FILES = 65_536

PATIENCE_SECONDS = 600.0  # so long a process waits for items that others hold, if none of them comes to an end


class Locks:
    """The items of `folder` that this process works on. A context manager; usable from any thread.

    Another process may finish an item between the caller's look and its lock: look again after every `take`. Nothing
    is written before the first `take`. Methods raise UserError where the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._home = folder / ".locks"
        self._held: dict[str, FileLock] = {}
        self._shared: list[SharedLock] = []
        self._guard = threading.Lock()
        self.working = True  # False once the disk has said that it has no locks: everything is then this process's

    def take(self, name: str) -> bool:
        """False where another process, or this one, holds the item."""
        path = self._path(name)
        with shielded(), self._guard:
            if name in self._held:
                return False
            if not self.working:
                return True
            try:
                lock = _locked(path)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise storage_error(path, error) from error
                self._go_without(path, error)
                return True
            if lock is not None:
                self._held[name] = lock
                fleeting.add(str(path))
            return lock is not None

    def release(self, name: str) -> None:
        """Once the item's files are complete, or it is given up. Does nothing for one that is not held."""
        with shielded():
            with self._guard:
                lock = self._held.pop(name, None)
            if lock is not None:
                remove_lock(lock)

    def share(self, name: str, text: str) -> tuple[str, str] | None:
        """Takes a lock that all who give the same `text` hold together, until the end; None once that is so.

        Else who holds it with another text, and that text.
        """
        path = self._path(name)
        with shielded():
            try:
                taken = share(path, f"{platform.node()}, process {os.getpid()}", text)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise storage_error(path, error) from error
                return None
            if isinstance(taken, SharedLock):
                self._shared.append(taken)
                return None
            return taken

    def holder(self, name: str) -> str:
        """For people: "host1, process 4711"."""
        with suppress(OSError):
            return self._path(name).read_text(errors="replace") or "another process"
        return "another process"

    def __enter__(self) -> "Locks":
        _allow_many_open_files()
        return self

    def __exit__(self, *_: object) -> None:
        """Gives up what is still held, and removes the files of processes that were killed."""
        with shielded(), suppress(OSError):  # what is left over is in nobody's way
            for name in list(self._held):
                self.release(name)
            while self._shared:
                self._shared.pop().release()
            for path in self._home.glob("*"):
                lock = _locked(path)
                if lock is not None:
                    remove_lock(lock)
            self._home.rmdir()

    def _path(self, name: str) -> Path:
        return self._home / hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def _go_without(self, path: Path, error: OSError) -> None:
        self.working = False
        with suppress(OSError):
            path.unlink()
            self._home.rmdir()
        logger.warning(
            "%s: this disk has no working locks (%s), so processes cannot share the folder: start one only, or give "
            "each a part of its own with shard=1/2, shard=2/2 and so on",
            self._home.parent,
            error.strerror or error,
        )


def holders_and_left(folder: Path) -> tuple[list[str], list[Path]]:
    """Who works in `folder` now ("host1, process 4711"), and the files of locks that nobody holds."""
    held, left = [], []
    for path in sorted((folder / ".locks").glob("*")):
        with suppress(OSError):  # gone already
            lock = _locked(path)
            if lock is None:
                held.append(path.read_text(errors="replace").partition("\n")[0] or "another process")
            else:
                lock.release()
                left.append(path)
    return held, left


def remove_left(path: Path) -> None:
    """The file of a lock that nobody holds; the folder, too, once it is empty."""
    with suppress(OSError):
        lock = _locked(path)
        if lock is not None:
            remove_lock(lock)
        path.parent.rmdir()


def _locked(path: Path) -> FileLock | None:
    """None where it is held. Tries again where the file, or the whole folder, is removed just then by its last user."""

    def sign(descriptor: int) -> None:
        if not os.path.samestat(os.fstat(descriptor), os.stat(path)):  # see above; filelock then releases it
            raise FileNotFoundError(errno.ENOENT, "another file has its name", str(path))
        with suppress(OSError):  # a full disk: this is only for people
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{platform.node()}, process {os.getpid()}".encode(), 0)

    lock = FileLock(path, blocking=False, thread_local=False, fallback_to_soft=False, on_acquired=sign)
    for _ in range(10):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            return lock
        except Timeout:
            return None
        except (FileNotFoundError, FileExistsError):
            if path.parent.is_file():
                raise
    return None


def remove_lock(lock: FileLock) -> None:
    """Gives it up and takes its file away, while it is held: whoever waits for it then makes a new one."""
    with suppress(OSError):  # it is only left over then
        os.unlink(lock.lock_file)
    fleeting.discard(str(lock.lock_file))
    lock.release()


def _allow_many_open_files() -> None:
    """An open file an item being worked on: batches of 512 images, read ahead twofold, exceed the usual 1,024."""
    with suppress(ImportError, OSError, ValueError):  # Windows has no such limit; a lower one still serves most
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_FILES)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
