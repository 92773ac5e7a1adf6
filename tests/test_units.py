"""Numbers for people."""

import pytest

from utils.units import aligned, size_text, time_text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9_951, "10 kB"), (1_300_000_000, "1.3 GB")),
        *((999_499, "999 kB"), (999_600, "1.0 MB"), (5e17, "500 PB")),
    ],
)
def test_sizes(num_bytes: float, text: str) -> None:
    assert size_text(num_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min"), (200, "3 min 20 s")),
        *((1234, "20 min"), (3599.9, "1 h"), (7800, "2 h 10 min"), (7200, "2 h"), (267_120, "74 h"), (1e8, "27,778 h")),
    ],
)
def test_times(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


def test_columns_stand_under_each_other() -> None:
    rows = [("", "files", "what"), ("videos", "1,200", "a"), ("all", "7", "")]
    assert aligned(rows, left=(0, 2)).split("\n") == ["        files  what", "videos  1,200  a", "all         7"]
