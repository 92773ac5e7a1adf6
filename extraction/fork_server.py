"""Starts processes that share what this one has imported: cheap to start, and none of this one's threads in them.

A fork copies only the thread that forks; what others had locked stays locked in the copy. So one copy is made early,
before there are threads and before a GPU is touched, and all others are copies of that one. `multiprocessing`'s own
server does this, too, but as a new interpreter that imports PyTorch again (4 s) and the user's script with it.
"""

import atexit
import ctypes
import gc
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

AVAILABLE = sys.platform == "linux"  # macOS's libraries do not survive a fork, Windows has none

_MOST_BYTES, _MOST_FDS = 1 << 16, 8
_PR_SET_PDEATHSIG = 1
_server: "ForkServer | None" = None


def fork_server(prepare: Callable[[], None]) -> "ForkServer":
    """This process's server: made by the first call, which should come early. It calls `prepare`, once."""
    global _server
    if _server is None or not _server.alive:
        _server = ForkServer(prepare)
    return _server


class ForkServer:
    """Usable from any thread."""

    def __init__(self, prepare: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._owner = os.getpid()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about threads: OpenBLAS has one, and minds forks
            self.pid = os.fork()
        if self.pid == 0:
            self._socket.close()
            _as_child(_serve, theirs, prepare)
        theirs.close()
        atexit.register(self._socket.close)

    @property
    def alive(self) -> bool:
        """False in a copy of the process that made it."""
        return self._owner == os.getpid()

    def start(self, function: Callable[..., None], arguments: Sequence[Any], fds: Sequence[int]) -> int:
        """`function(*arguments, *fds)` in a new process; its process id. Arguments must be picklable."""
        return self._ask((function, arguments), fds)

    def end(self, pid: int, *, patience_seconds: float = 0.0) -> int:
        """Its exit status, negative: the signal that ended it. It is killed if it is still there after so long."""
        return self._ask((pid, patience_seconds), ())

    def _ask(self, request: tuple[Any, Any], fds: Sequence[int]) -> int:
        with self._lock:
            socket.send_fds(self._socket, [pickle.dumps(request)], fds)
            answer = self._socket.recv(_MOST_BYTES)
        if not answer:
            raise RuntimeError("the process that starts the readers has ended: workers=0 does without")
        return pickle.loads(answer)


def _serve(requests: socket.socket, prepare: Callable[[], None]) -> None:
    prepare()
    gc.freeze()  # what is copied is never collected: files and sockets among it are not this process's to close
    os.closerange(3, requests.fileno())  # or the locks that the parent holds would outlive it
    os.closerange(requests.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    while True:
        message, fds, _, _ = socket.recv_fds(requests, _MOST_BYTES, _MOST_FDS)
        if not message:
            return
        what, how = pickle.loads(message)
        if isinstance(what, int):
            answer = _end(what, patience_seconds=how)
        else:
            answer = os.fork()
            if answer == 0:
                requests.close()
                _die_with_the_server()
                _as_child(what, *how, *fds)
            for fd in fds:
                os.close(fd)
        requests.send(pickle.dumps(answer))


def _end(pid: int, *, patience_seconds: float) -> int:
    until = time.monotonic() + patience_seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)  # what has ended already keeps the status that it ended with
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _as_child(function: Callable[..., None], *arguments: Any) -> None:
    """Never returns. Signals for the whole group (Ctrl-C) are the parent's business."""
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        function(*arguments)
        status = 0
    except (BrokenPipeError, ConnectionResetError, EOFError):
        pass  # the parent is gone
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(status)


def _die_with_the_server() -> None:
    """Which ends when its parent does, however that ends: its socket is closed then."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
