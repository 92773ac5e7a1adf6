"""A lock that several processes hold together, as long as they say the same: which settings a folder is filled with.

It is a `flock` like those of `store.locks`, on a file that says who came first and what they said. Whoever holds it
alone may write there; the system frees it the moment its last process ends, however that ends.
"""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TRIES = 100
_PAUSE_SECONDS = 0.05  # while somebody else is writing


@dataclass(frozen=True)
class SharedLock:
    path: Path
    descriptor: int | None  # None where the system has no such locks

    def release(self) -> None:
        """Takes the file away with the last that holds it."""
        if self.descriptor is None:
            return
        with suppress(OSError):  # it is only left over then
            if _try(self.descriptor, alone=True) and _has_its_name(self.descriptor, self.path):
                os.unlink(self.path)
        os.close(self.descriptor)


def share(path: Path, holder: str, text: str) -> SharedLock | tuple[str, str]:
    """The lock, or who holds it with another text, and that text. OSError where there can be none."""
    if os.name != "posix":
        return SharedLock(path, None)
    for _ in range(_TRIES):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except (FileNotFoundError, FileExistsError):  # the last user took the folder away just then
            if path.parent.is_file():
                raise
            continue
        try:
            if _try(descriptor, alone=True) and _has_its_name(descriptor, path):
                os.truncate(descriptor, 0)
                os.pwrite(descriptor, f"{holder}\n{text}".encode(), 0)
            # To share it is to let go of it for an instant: what is there now counts.
            if _try(descriptor, alone=False) and _has_its_name(descriptor, path):
                found_holder, _, found = os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode().partition("\n")
                if found == text:
                    lock, descriptor = SharedLock(path, descriptor), None
                    return lock
                return found_holder, found
        finally:
            if descriptor is not None:
                os.close(descriptor)
        time.sleep(_PAUSE_SECONDS)
    return "another process", ""


def _try(descriptor: int, *, alone: bool) -> bool:
    import fcntl  # late: Windows has none

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _has_its_name(descriptor: int, path: Path) -> bool:
    """Else the last user removed it between our opening and our lock (see `store.locks`)."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
