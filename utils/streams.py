"""Standard streams that are not there, or not any longer."""

import io
import os
import sys
from typing import Any

BROKEN_PIPE = 141  # exit status of a program whose output nobody reads


def open_all() -> None:
    """Closed ones (`2>&-`) become the null device: the next file opened would else take their place."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False, encoding="utf-8"))  # noqa: SIM115 - to the end
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Messages(2, "w", closefd=False)),
        encoding=sys.stderr.encoding,
        errors="backslashreplace",
        line_buffering=True,
    )


class _Messages(io.FileIO):
    """Where nobody reads them any longer (`2>&1 | head -1`), they are dropped: no reason to end a run that saves."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            _silence(self.fileno())
            return memoryview(data).nbytes


def stdout_is_gone(error: OSError, *, saving: bool) -> None:
    """`| head -1` has seen enough, or the disk that it goes to is full: what is saved goes on without it.

    Else the program ends: without a word where there is no reader.
    """
    unread = isinstance(error, BrokenPipeError)
    if not unread:
        goes_on = "; what is saved goes on without it" if saving else ""
        print(f"error: standard output: {error.strerror}{goes_on}", file=sys.stderr, flush=True)
    _silence(1)
    if not saving:
        os._exit(BROKEN_PIPE if unread else 1)  # nothing is held, nothing half written


def _silence(number: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)
