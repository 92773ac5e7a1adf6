"""Standard streams that are not there, or not any longer."""

import os
import sys

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


def stdout_is_gone(*, saving: bool) -> None:
    """`| head -1` has seen enough: what is saved goes on without it, else the program ends without a word."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    if not saving:
        os._exit(BROKEN_PIPE)  # nothing is held, nothing half written
