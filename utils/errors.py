"""Errors that are the user's to mend: shown as one line, without a traceback."""

import difflib
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path


class UserError(RuntimeError):
    """A wrong argument, a missing file, an unusable checkpoint: `main.py` prints the message and stops.

    The message names the key or file, what was expected, what was found and what to do.
    """


class MediaError(UserError):
    """One input file cannot be used; the run goes on with the others and lists it (`on_error=skip`)."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """ "did you mean batch_size? " or nothing, where no known word is near."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]}? " if near else ""


def first_line(error: BaseException, *, longest: int = 160) -> str:
    """Of its message; its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:longest]


def some(names: Sequence[str]) -> str:
    """The first of many names, for a message."""
    return f"{', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"


def check_option(key: str, given: object, options: Iterable[str | None]) -> None:
    """UserError unless `given` is one of `options`; None among them is what a config calls null."""
    if given in (options := list(options)):
        return
    names = ["null" if option is None else option for option in options]
    raise UserError(f"{key}={given}: {did_you_mean(str(given), names)}Expected one of {', '.join(names)}")


def check_count(key: str, given: object, *, least: int = 1) -> None:
    """UserError unless `given` is a whole number, `least` or more."""
    if isinstance(given, bool) or not isinstance(given, int) or given < least:
        raise UserError(f"{key}={given}: expected a whole number, {least} or more")


def check_number(key: str, given: object, *, least: float = -math.inf, most: float = math.inf) -> None:
    """UserError unless `given` is a finite number from `least` to `most`."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise UserError(f"{key}={given}: expected a number")
    if not least <= given <= most:
        borders = [f"{least:g} at least"] * (least > -math.inf) + [f"{most:g} at most"] * (most < math.inf)
        raise UserError(f"{key}={given}: expected a number, {', '.join(borders)}")


def check_text(key: str, given: object) -> None:
    """UserError unless `given` is a text; an empty one is."""
    if not isinstance(given, str):
        raise UserError(f"{key}={given}: expected a text; put quotes around it, as in '{key}=\"...\"'")


def check_flags(**flags: object) -> None:
    """UserError unless all are true or false. Words such as `no` and `off` reach us as texts, and a text is true."""
    for key, value in flags.items():
        if not isinstance(value, bool):
            raise UserError(f"{key}={value}: expected true or false")


def check_path(key: str, given: object) -> None:
    """UserError unless `given` is the name of a file or folder, of whatever is there or not; None is nothing given."""
    if given is not None and (not isinstance(given, str | os.PathLike) or not str(given).strip()):
        raise UserError(f"{key}={given}: expected the name of one file or folder")


def user_error_in(error: BaseException) -> UserError:
    """The user's mistake, or the system's, inside what Hydra wrapped around it; raises `error` itself if there is none.

    The system's (disk, permissions, open files) are told where they happen, with what to do; here those that were not.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        if isinstance(cause, OSError) and cause.errno is not None:
            return _of_system(cause)
        cause = cause.__cause__
    raise error


def _of_system(error: OSError) -> UserError:
    name = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    return UserError(
        f"{name}{error.strerror or error}: look at this file, its disk and its permissions, and run the same command "
        "again; finished files are kept"
    )


def given_path(key: str, path: str | os.PathLike[str] | None, expected: str) -> Path:
    """UserError where an option that has to name a file or folder does not."""
    if not path or not isinstance(path, str | os.PathLike):
        raise UserError(f"{key}: expected {expected}, found {path or 'nothing'}")
    return Path(path).expanduser()
