"""Ten failures in a row for one reason stop a run; what is wrong with single files never does."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from extraction.failures import FailuresInARow
from utils.errors import MediaError, UserError
from utils.types import Item

Make = Callable[[Path], Exception]


def media(text: str) -> Make:
    return lambda path: MediaError(f"{path}: {text}")


MISSING = media("cannot be opened as a video (No such file or directory); is the file complete?")
FORBIDDEN = media("cannot be read (Permission denied)")
CRASHED = media("the decoder crashed: signal 11")
DAMAGED = media("cannot be opened as a video (Invalid data found when processing input); is the file complete?")


def bug(path: Path) -> Exception:
    return ZeroDivisionError("division by zero")


def number_until_stopped(kinds: list[Make], limit: int = 3) -> int:
    """How many are counted before the run is stopped, all if it is not."""
    failures = FailuresInARow(limit)
    for number, make in enumerate(kinds):
        path = Path(f"videos/{number}.mp4")
        error = make(path)
        try:
            failures.add(Item(path, path.stem), f"{path}: {error}" if make is bug else str(error), error)
        except UserError:
            return number + 1
    return len(kinds)


@pytest.mark.parametrize("kind", [MISSING, FORBIDDEN, CRASHED, bug])
def test_the_same_reason_again_and_again(kind: Make) -> None:
    assert number_until_stopped([kind] * 9) == 3
    assert number_until_stopped([kind] * 9, limit=0) == 9


def test_damaged_files_and_changing_reasons_go_on() -> None:
    assert number_until_stopped([DAMAGED] * 20) == 20
    assert number_until_stopped([MISSING, MISSING, FORBIDDEN] * 5) == 15
    assert number_until_stopped([MISSING, MISSING, DAMAGED] * 5) == 15


def test_one_that_is_done_begins_anew() -> None:
    failures, item = FailuresInARow(2), Item(Path("a.mp4"), "a")
    for _ in range(5):
        failures.add(item, "a.mp4: no such file", MediaError("a.mp4: no such file"))
        failures.end()


def test_the_line_says_what_and_what_to_do() -> None:
    failures = FailuresInARow(1)
    expected = r"1 inputs in a row failed .*a\.mp4 \(cannot be read \(Permission denied\)\).*stop_after_failures=0"
    with pytest.raises(UserError, match=expected):
        failures.add(Item(Path("a.mp4"), "a"), str(FORBIDDEN(Path("a.mp4"))), FORBIDDEN(Path("a.mp4")))
    with pytest.raises(UserError, match="stop_after_failures=-1: expected a whole number, 0 or more"):
        FailuresInARow(-1)


def test_the_words_of_the_system_are_those_of_this_one() -> None:
    """Messages hold `os.strerror`; FFmpeg's are its own, and the same."""
    import av

    with pytest.raises(OSError, match=os.strerror(2)):
        av.open("file:/nowhere.mp4")
