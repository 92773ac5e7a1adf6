"""Reader processes: the same events as threads give, and what harms one of them costs one item."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from extraction import readers
from extraction.events import End, Prepared, ReadEvent, Start
from extraction.fork_server import AVAILABLE, fork_server
from extraction.reader_process import warm_up
from extraction.readers import ReaderError, read_in_processes
from tests.helpers.hostile_rows import NUM_ROWS, Bomb, Hostile, content, item
from utils.errors import MediaError, UserError
from utils.types import Item

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="reader processes are forked, which only Linux does safely")
OPTIONS: dict[str, Any] = {"workers": 2, "depth": 4, "ahead": 8, "timeout_seconds": 30, "memory_gb": 4}


def read(items: Iterable[Item], rows: Any = None, **options: Any) -> dict[str, list[ReadEvent]]:
    found = defaultdict(list)
    with closing(read_in_processes(items, rows or Hostile(), **(OPTIONS | options))) as events:
        for each, event in events:
            found[each.name].append(event)
    return found


def check_whole(name: str, events: list[ReadEvent], first_row: int = 0, num_rows: int = NUM_ROWS) -> None:
    assert isinstance(events[0], Start)
    assert isinstance(events[-1], End), events[-1]
    assert events[-1].facts == {"name": name}
    rows = [event for event in events[1:-1] if isinstance(event, Prepared)]
    assert [event.seconds for event in rows] == list(range(first_row, num_rows))
    for row, event in enumerate(rows, first_row):
        expected = content(name, row)
        if isinstance(expected, tuple):
            assert all(map(torch.equal, event.content, expected))
        elif isinstance(expected, str):
            assert event.content == expected
        else:
            assert torch.equal(event.content, expected)


def num_children() -> int:
    """Processes that the fork server has started."""
    parents = [path.read_text().rpartition(")")[2].split()[1] for path in Path("/proc").glob("[0-9]*/stat")]
    return parents.count(str(fork_server(warm_up).pid))


@pytest.mark.parametrize("workers", [1, 3])
def test_all_rows_arrive_once_and_in_order(workers: int) -> None:
    names = [f"{kind}{number}" for kind in ("a", "tuple", "large", "plain") for number in range(6)]
    found = read(map(item, names), workers=workers)
    assert sorted(found) == sorted(names)
    for name in names:
        check_whole(name, found[name])


def test_more_rows_than_slots_wait_for_a_slow_consumer() -> None:
    found: dict[str, list[ReadEvent]] = defaultdict(list)
    with closing(read_in_processes(map(item, ("a", "b", "c")), Hostile(50), **OPTIONS)) as events:
        for each, event in events:
            time.sleep(0.002)
            found[each.name].append(event)
    for name in ("a", "b", "c"):
        check_whole(name, found[name], num_rows=50)


def test_rows_that_are_not_wanted_are_left_out() -> None:
    found = read(map(item, ("a", "b")), skip=lambda each: 2 if each.name == "b" else 0)
    check_whole("a", found["a"])
    check_whole("b", found["b"], first_row=2)


@pytest.mark.parametrize(
    ("kind", "reason", "options"),
    [
        ("crash", "the decoder crashed: signal 11", {}),
        ("leave", "the decoder ended with status 3", {}),
        ("stop", "no progress in reading for 3 s", {"timeout_seconds": 3}),
        ("sleep", "no progress in reading for 3 s", {"timeout_seconds": 3}),
        ("bloat", "more than 0.2 GB of memory", {"memory_gb": 0.2}),
    ],
)
def test_a_reader_that_dies_costs_one_item(kind: str, reason: str, options: dict[str, Any]) -> None:
    names = ["a0", "a1", f"{kind}0", "b0", "b1", "b2", "b3", "b4", "b5"]
    found = read(map(item, names), **options)
    (*_, last) = found.pop(f"{kind}0")
    assert isinstance(last, ReaderError)
    assert reason in str(last)
    assert str(last).startswith(f"{kind}0.mp4: ")
    assert len(found) == len(names) - 1
    for name, events in found.items():
        check_whole(name, events)


def test_many_crashes_cost_as_many_items() -> None:
    names = [f"{'crash' if number % 3 == 0 else 'a'}{number}" for number in range(24)]
    found = read(map(item, names), workers=2, ahead=16)
    for name in names:
        if name.startswith("crash"):
            assert isinstance(found[name][-1], ReaderError)
        else:
            check_whole(name, found[name])


def test_a_crash_between_items_is_found_by_reading_them_one_by_one() -> None:
    bad = Item(Path("bad.mp4"), Bomb("bad"))
    found = read([item("a0"), item("a1"), bad, *map(item, ("b0", "b1", "b2"))], workers=1, ahead=16, depth=64)
    assert isinstance(found["bad"][-1], ReaderError)
    for name in ("a0", "a1", "b0", "b1", "b2"):
        check_whole(name, found[name])


def test_what_goes_wrong_in_reading_arrives() -> None:
    found = read(map(item, ("media", "odd", "a")))
    assert isinstance(found["media"][-1], MediaError)
    assert not isinstance(found["media"][-1], ReaderError)
    assert str(found["odd"][-1]) == "OddError: one"
    check_whole("a", found["a"])


def test_readers_that_never_get_anywhere_end_the_run() -> None:
    def bombs() -> Iterator[Item]:
        yield from (Item(Path("bad.mp4"), Bomb(f"bad{number}")) for number in range(20))

    with pytest.raises(UserError, match="workers=0"):
        read(bombs())


def test_an_error_in_the_list_of_items_arrives() -> None:
    def items() -> Iterator[Item]:
        yield item("a")
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="the disk is full"):
        read(items())


def test_items_are_asked_for_when_there_is_room() -> None:
    asked = []

    def items() -> Iterator[Item]:
        for number in range(20):
            asked.append(number)
            yield item(f"a{number}")

    with closing(read_in_processes(items(), Hostile(), **(OPTIONS | {"ahead": 4}))) as events:
        for _ in range(NUM_ROWS + 2):
            next(events)
        time.sleep(0.3)
        assert len(asked) <= 6


def test_closing_ends_the_processes() -> None:
    with closing(read_in_processes(map(item, ("a", "sleep0", "sleep1")), Hostile(), **OPTIONS)) as events:
        next(events)
        assert num_children() > 0
    assert num_children() == 0


def test_a_pause_of_this_process_is_no_silence_of_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = time.monotonic
    monkeypatch.setattr(readers.time, "monotonic", lambda: clock() * 1000)  # every look seems a long time apart
    check_whole("a", read([item("a")], timeout_seconds=30)["a"])
