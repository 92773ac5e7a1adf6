"""Who works in a shared folder: one file a process, renewed for as long as the process lives."""

import json
import logging
import os
import platform
import secrets
import sys
import threading
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from store.atomic import storage_error

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Owner:
    """What others need to know to tell whether this process still lives."""

    id: str
    host: str  # for people
    machine: str  # processes with the same one see each other's process ids
    pid: int
    started: str  # tells it from a later process with the same number; "" where the system does not say
    lease_seconds: float

    def __str__(self) -> str:
        return f"{self.host}, process {self.pid}"


def read_owner(path: Path) -> Owner | None:
    """None where the file cannot be made sense of: not written yet, or not for us to read."""
    try:
        return Owner(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError):
        return None


class Owners:
    """The owner files `<id>.owner` in `folder`; this process's own is `me`.

    A process of the same machine is dead when its process id is gone, which shows at once. On another machine, or in
    another container, it is dead when it has not renewed its file for `lease_seconds`. The disk's clock measures that:
    the clocks of the machines may differ.

    Methods raise OSError.
    """

    def __init__(self, folder: Path, *, lease_seconds: float) -> None:
        pid = os.getpid()
        self.me = Owner(
            id=secrets.token_hex(8),
            host=platform.node(),
            machine=machine(),
            pid=pid,
            started=_start_and_state(pid)[0],
            lease_seconds=lease_seconds,
        )
        self._folder, self._content = folder, json.dumps(asdict(self.me)).encode()
        self._file = self._file_of(self.me.id)
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._heart: threading.Thread | None = None

    def enter(self) -> None:
        """Makes the folder and the file, and keeps renewing it in the background."""
        with self._lock:
            if self._heart is None:
                self._create()
                self._left.clear()
                self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
                self._heart.start()

    def leave(self) -> None:
        """Takes the file away, and the folder if nothing is left in it."""
        if self._heart is not None:
            self._left.set()
            self._heart.join()
            self._heart = None
        self._file.unlink(missing_ok=True)
        try:
            self._folder.rmdir()
        except OSError:  # in use by others, or gone with the last of them
            return

    def sign(self, path: Path) -> bool:
        """Puts this owner's content at `path`, whole from the first moment; False if there is a file already."""
        for _ in range(2):
            try:
                os.link(self._file, path)
                return True
            except FileExistsError:
                return False
            except FileNotFoundError:  # somebody deleted our file, perhaps the whole folder
                self.renew()
            except OSError:  # no hard links here (exFAT, some network drives); if it is anything else, this fails too
                return self._write_new(path)
        return self._write_new(path)

    def alive(self, owner: Owner | None, path: Path) -> bool:
        """Whether the owner that was read from `path` still works; one that could not be read has its lease's time."""
        try:
            heartbeat = _modified(path if owner is None else self._file_of(owner.id))
        except FileNotFoundError:  # it has left
            return False
        if owner is not None and owner.machine == self.me.machine and os.name == "posix":
            return _runs(owner)
        lease_seconds = self.me.lease_seconds if owner is None else owner.lease_seconds
        self.renew()
        return _modified(self._file) - heartbeat <= lease_seconds

    def renew(self) -> None:
        """Written, not only touched: a file server then stamps it with its own clock, not with this machine's."""
        with self._lock:
            try:
                with self._file.open("r+b") as file:
                    file.write(self._content)
            except FileNotFoundError:  # taken away by somebody who waited a lease for a sign of life
                self._create()

    def _create(self) -> None:
        for _ in range(10):
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                self._write_new(self._file)
                return
            except FileNotFoundError:  # another process has just left, and taken the empty folder with it
                continue
        raise FileNotFoundError(f"{self._folder} disappears as soon as it is made")

    def _write_new(self, path: Path) -> bool:
        try:
            file = path.open("xb")
        except FileExistsError:
            return False
        try:
            with file:
                file.write(self._content)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return True

    def _beat(self) -> None:
        told = False
        while not self._left.wait(self.me.lease_seconds / 4):
            try:
                self.renew()
                told = False
            except OSError as error:
                # The work goes on: `Claim.is_mine` tells, before anything is saved, whether somebody took it over.
                if not told:
                    logger.warning("no sign of life for other machines: %s", storage_error(self._file, error))
                told = True

    def _file_of(self, owner: str) -> Path:
        return self._folder / f"{owner}.owner"


def machine() -> str:
    """Equal for processes that see each other's process ids. Containers of one host share all but the namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        if sys.platform == "darwin":  # no containers, no boot id
            return f"{platform.node()} {uuid.getnode()}"
        return secrets.token_hex(8)  # cannot tell: the lease decides


def _runs(owner: Owner) -> bool:
    """Whether a process of this machine is there, is no zombie, and is the one that had the number then."""
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    started, state = _start_and_state(owner.pid)
    return state not in ("Z", "X") and (not owner.started or not started or started == owner.started)


def _start_and_state(pid: int) -> tuple[str, str]:
    """Clock ticks from boot to the start of the process, and its state letter; "" where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()  # names hold anything
        return fields[19], fields[0]
    except (OSError, IndexError):
        return "", ""


def _modified(path: Path) -> float:
    """Of a file that is opened for it: NFS then asks the server, where a mere look is answered from memory."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime
    except PermissionError:
        return path.stat().st_mtime
