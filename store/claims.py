"""Which process works on which item, so that any number of them can share one output folder.

All of it lies in `<folder>/.claims`, which is gone when the last process is:

- `<id>.owner`, one for each process: see `owners`.
- `<item>`, the first claim to an item: a hard link to its owner's file, so that it is there at once and whole.
- `<item>.<n>.<id>`, the n-th claim after it, by which somebody took over from the dead owner `<id>` of the one before.

An item belongs to the end of its chain: begin with `<item>` and go on to the claim that names the owner just read, as
long as there is one. No `<item>` means free. A file can be created once, so every step has one winner, and who was
late by any time at all ends up outside the chain and sees it. At any moment, one claim at most `is_mine`.

Release removes a chain from its beginning. The item is free with the first file, and nothing left over can get into
the chain of whoever comes next, for it names another owner. (From its end, the dead owner would come into sight again:
a newcomer would take over from him, and lose the item when the rest is removed.) So a process may die between any two
steps: the item is free, or belongs to somebody dead.

What remains: a process on another machine that is held up for longer than its lease between asking `is_mine` and
saving or releasing. The item may be worked on twice then; as files are replaced whole, the results stay valid.
"""

import hashlib
import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from store.atomic import storage_error
from store.owners import Owner, Owners, read_owner
from utils.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Link:
    path: Path
    owner: Owner | None  # None: not readable


class Claims:
    """The items of `folder` that this process works on. A context manager; usable from any thread.

    An item may be finished between the caller's look and its claim: look again after every successful `take`.
    Nothing is written before the first `take`. Methods raise UserError where the folder cannot be written.
    """

    def __init__(self, folder: Path, *, lease_seconds: float = 60) -> None:
        """`lease_seconds`: after this time without a sign of life, other machines take this process for dead."""
        if not lease_seconds > 0:
            raise UserError(f"lease_seconds={lease_seconds}: expected seconds, more than 0")
        self._home = folder / ".claims"
        self._owners = Owners(self._home, lease_seconds=lease_seconds)
        self._lock = threading.Lock()
        self._held: dict[str, Claim] = {}
        self._wanted: set[str] = set()  # by a thread that is inside `take`

    def take(self, name: str) -> "Claim | None":
        """None where another process, or this one, holds the item already, or was faster by a moment."""
        with self._errors_for_users():
            self._owners.enter()
            return self._take(_file_name(name))

    def holder(self, name: str) -> str | None:
        """For people: "host1, process 4711"."""
        with self._errors_for_users():
            chain = self._chain(_file_name(name))
            if not chain or not self._owners.alive(chain[-1].owner, chain[-1].path):
                return None
            return str(chain[-1].owner or "a process that cannot be identified")

    def __enter__(self) -> "Claims":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives up what is still held, and takes away what processes left that were killed."""
        if not self._home.is_dir():
            return
        try:
            self._owners.enter()
            for claim in list(self._held.values()):
                claim.release()
            self._clean()
            self._owners.leave()
        except (OSError, UserError) as problem:  # what is left over is in nobody's way
            logger.warning("%s: could not be cleaned up: %s", self._home, problem)

    def _take(self, item: str) -> "Claim | None":
        with self._lock:
            if item in self._held or item in self._wanted:
                return None
            self._wanted.add(item)
        try:
            claim = self._claim(item)
            if claim is not None:
                self._held[item] = claim
            return claim
        finally:
            self._wanted.discard(item)

    def _claim(self, item: str) -> "Claim | None":
        chain = self._chain(item)
        if chain and self._owners.alive(chain[-1].owner, chain[-1].path):
            return None
        path = self._next(item, chain)
        created = self._owners.sign(path)
        # Not what the call answered counts, but what is there: over NFS, success can be answered with "exists already".
        chain = self._chain(item)
        if self._is_end(chain, path):
            return Claim(self, path)
        if created and path not in [link.path for link in chain]:  # meanwhile taken over and released by another
            path.unlink(missing_ok=True)
        return None

    def _chain(self, item: str) -> list[_Link]:
        """From the first claim to the one that counts; empty where the item is free."""
        if os.name == "posix":  # NFS remembers which files were not there, until their folder is opened
            with suppress(FileNotFoundError):
                os.close(os.open(self._home, os.O_RDONLY))
        chain: list[_Link] = []
        while True:
            path = self._next(item, chain)
            try:
                chain.append(_Link(path, read_owner(path)))
            except FileNotFoundError:
                return chain

    def _next(self, item: str, chain: list[_Link]) -> Path:
        if not chain:
            return self._home / item
        owner = chain[-1].owner
        return self._home / f"{item}.{len(chain)}.{owner.id if owner else 'unknown'}"

    def _is_end(self, chain: list[_Link], path: Path) -> bool:
        return bool(chain) and chain[-1] == _Link(path, self._owners.me)

    def _is_mine(self, path: Path) -> bool:
        with self._errors_for_users():
            return self._is_end(self._chain(_item(path)), path)

    def _release(self, claim: "Claim", path: Path) -> None:
        item = _item(path)
        with self._lock:
            if self._held.get(item) is not claim:  # released before
                return
            with self._errors_for_users():
                chain = self._chain(item)
                if self._is_end(chain, path):  # else it is the new owner's to remove
                    for link in chain:
                        link.path.unlink(missing_ok=True)
            del self._held[item]

    def _clean(self) -> None:
        """Items of the dead are taken over as by anybody else, so that nobody who comes now can be harmed."""
        for path in list(self._home.iterdir()):
            if not path.suffix:
                claim = self._take(path.name)
                if claim is not None:
                    claim.release()
        for path in list(self._home.iterdir()):
            with suppress(FileNotFoundError):  # others clean up, too
                if not path.suffix or self._owners.alive(read_owner(path), path):
                    continue
                if path.suffix == ".owner" or path not in [link.path for link in self._chain(_item(path))]:
                    path.unlink()

    @contextmanager
    def _errors_for_users(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise storage_error(self._home, error) from error


class Claim:
    """One item that this process took."""

    def __init__(self, claims: Claims, path: Path) -> None:
        self._claims, self._path = claims, path

    def is_mine(self) -> bool:
        """False after another process has taken the item over; to be asked just before saving."""
        return self._claims._is_mine(self._path)

    def release(self) -> None:
        """Frees the item, if it is still this process's. Called again, it does nothing."""
        self._claims._release(self, self._path)


def _file_name(name: str) -> str:
    """Of any string: its last letters for people who look into the folder, and a hash. Without a dot."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    readable = re.sub("[^A-Za-z0-9_-]+", "_", name)[-60:]
    return f"{readable}-{digest}"


def _item(path: Path) -> str:
    return path.name.partition(".")[0]
