"""How a run ends that is told to: by Ctrl-C, `kill`, a batch system at its time limit, a terminal that is closed.

The first signal ends it in order: inside `stoppable()` it is the exception `Stopped`, so that what is finished is kept
and told, and nothing half done stays; elsewhere (PyTorch is being imported, say) there is nothing to lose, and the
process ends. A second one ends it at once. The exit status is 128 + the signal's number.
"""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

_SAME_SECONDS = 0.3  # `timeout` and shells send each signal twice
_PATIENCE_SECONDS = 1.0


class Stopped(KeyboardInterrupt):
    """What a signal becomes. Whoever knows Ctrl-C knows it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


fleeting: set[str] = set()  # files that go with this process, also where it ends at once: locks, half written ones


class _State:
    listening = False  # `listen` was called: by main.py
    raises = False  # inside `stoppable`
    first: int | None = None
    shields = 0  # open blocks of `shielded`
    waiting = False  # `first` came inside one


_state = _State()


def exit_status(stop: KeyboardInterrupt) -> int:
    """128 + the signal's number, as shells and schedulers know it."""
    return 128 + int(getattr(stop, "number", signal.SIGINT))


def listen() -> None:
    """From now on signals are answered as described above; those that are ignored (`nohup`) still are.

    To be called once, by the program, in its main thread.
    """
    for number in SIGNALS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _answer)
    # Python answers between two of its instructions: after a long one, such as a batch. The second has to work then.
    receiving, sending = socket.socketpair()
    sending.setblocking(False)
    signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(receiving, sending), name="signals", daemon=True).start()
    os.register_at_fork(after_in_child=_in_child)
    _state.listening = True


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, the first signal raises `Stopped` in the main thread."""
    _state.raises = True
    try:
        yield
    finally:
        _state.raises = False


@contextmanager
def shielded() -> Iterator[None]:
    """A few instructions that belong together, such as taking a lock and noting it: `Stopped` comes after them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.shields += 1
    try:
        yield
    finally:
        _state.shields -= 1
        if _state.waiting and not _state.shields:
            _state.waiting = False
            raise Stopped(_state.first or signal.SIGINT)


class Notes(list[int]):
    """The numbers of the signals that came."""

    _raises = False

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Inside, they also raise `Stopped`."""
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def note(self, number: int, _frame: FrameType | None) -> None:
        again = bool(self)
        self.append(number)
        if not _state.listening:  # else there is somebody else for the second
            signal.signal(number, signal.SIG_DFL)
        if self._raises and not again:
            raise Stopped(number)


@contextmanager
def noted() -> Iterator[Notes]:
    """Inside, signals only come into the list, and the block ends when it can; also without `listen`."""
    notes, previous = Notes(), {number: signal.getsignal(number) for number in SIGNALS}
    mine = [number for number, handler in previous.items() if handler not in (signal.SIG_IGN, None)]
    try:
        for number in mine:
            signal.signal(number, notes.note)
        yield notes
    finally:
        for number in mine:
            signal.signal(number, previous[number])


def leave_to_parent() -> None:
    """In a child process: Ctrl-C and a closed terminal reach all of a group, and the parent answers them."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)


def _in_child() -> None:
    if _state.listening:
        _state.listening = False
        signal.set_wakeup_fd(-1)
        leave_to_parent()


def _answer(number: int, _frame: FrameType | None) -> None:
    if _state.first is not None:  # `_watch` ends the process where this is a second one
        return
    _state.first = number
    if number == getattr(signal, "SIGHUP", None):
        _leave_terminal()
    if not _state.raises:
        _end(number, "stopped before the work began")
    if _state.shields:
        _state.waiting = True
    else:
        raise Stopped(number)


def _watch(receiving: socket.socket, _sending: socket.socket) -> None:
    """Of all signals, the first: tells that it takes a while, where it does. The second: ends the process."""
    first_seconds: float | None = None
    while True:
        try:
            received = receiving.recv(1)[0]
        except TimeoutError:
            receiving.settimeout(None)
            _say("stopping after what is at hand; once more ends it at once")
            continue
        if received not in SIGNALS:
            continue
        if first_seconds is None:
            first_seconds = time.monotonic()
            receiving.settimeout(_PATIENCE_SECONDS)
        elif time.monotonic() - first_seconds > _SAME_SECONDS:
            _end(received, "ended at once; what was finished is kept, the same command goes on from there")


def _end(number: int, line: str) -> None:
    _say(line)
    for child in multiprocessing.active_children():
        child.kill()
    for path in list(fleeting):
        with suppress(OSError):
            os.unlink(path)
            os.rmdir(os.path.dirname(path))  # where it was the last in it
    os._exit(128 + number)


def _say(line: str) -> None:
    """Past Python's buffers, which another thread may hold."""
    with suppress(OSError, ValueError, AttributeError):  # stderr is closed, or there is none
        os.write(sys.stderr.fileno(), f"\n{line}\n".encode())


def _leave_terminal() -> None:
    """Where it is gone, writing to it fails: the account then goes into its file alone."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            try:
                os.write(stream.fileno(), b"\n" if stream.isatty() else b"")
            except OSError:
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, stream.fileno())
                os.close(nothing)
