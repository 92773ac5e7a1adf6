"""unpack(pack(x)) == x, in order, never far ahead, and stopped at once."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extraction.batching import Encoded, Failed, encode_batches
from extraction.events import End, Prepared, ReadEvent, Start
from extraction.threads import prefetch
from utils.types import Item


def item(k: int) -> Item:
    return Item(Path(f"{k}.mp4"), str(k))


def encode(samples: Sequence[int]) -> dict[str, np.ndarray]:
    """Injective, so that a row that goes astray is noticed; two arrays of different shapes."""
    rows = np.array([[sample, -sample] for sample in samples], np.float32)
    return {"global": rows, "grid": np.stack([rows, rows + 1, rows + 2], axis=1)}


def number(k: int, row: int) -> int:
    return 1000 * (k + 1) + row


def events_of(k: int, rows: int, failed: bool) -> list[ReadEvent]:
    rows_of_it = [Prepared(number(k, row), row / 10, row / 7) for row in range(rows)]
    return [Start(rows), *rows_of_it, ValueError(f"{k} broke") if failed else End(10.0, {"k": k})]


LENGTHS = st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=8)


def check(results: list[Encoded | Failed], lengths: Sequence[tuple[int, bool]]) -> None:
    assert [result.item for result in results] == [item(k) for k in range(len(lengths))]
    for k, (result, (rows, failed)) in enumerate(zip(results, lengths, strict=True)):
        if failed:
            assert isinstance(result, Failed)
            assert str(result.error) == f"{k} broke"
            continue
        assert isinstance(result, Encoded)
        assert (result.end.fps, result.end.facts) == (10.0, {"k": k})
        assert result.seconds == [row / 10 for row in range(rows)]
        assert result.source_seconds == [row / 7 for row in range(rows)]
        expected = encode([number(k, row) for row in range(rows)])
        assert result.rows == rows
        assert set(result.features) == ({"global", "grid"} if rows else set())
        for name, array in result.features.items():
            assert np.array_equal(array, expected[name])


@given(LENGTHS, st.integers(1, 12))
def test_every_row_comes_back_to_its_item(lengths: list[tuple[int, bool]], batch_size: int) -> None:
    sizes: list[int] = []

    def counted(samples: Sequence[int]) -> dict[str, np.ndarray]:
        sizes.append(len(samples))
        return encode(samples)

    events = [(item(k), event) for k, (rows, failed) in enumerate(lengths) for event in events_of(k, rows, failed)]
    check(list(encode_batches(events, counted, batch_size, in_order=True)), lengths)
    full, rest = divmod(sum(rows for rows, _ in lengths), batch_size)
    assert sizes == [batch_size] * full + [rest] * (rest > 0)  # only the last batch of all is short


@settings(max_examples=30, deadline=None)
@given(LENGTHS, st.integers(1, 5), st.integers(1, 3), st.integers(1, 4), st.sampled_from([None, 1, 4, 20]))
def test_threads_that_read_ahead_change_nothing(
    lengths: list[tuple[int, bool]], batch_size: int, workers: int, depth: int, ahead: int | None
) -> None:
    def read(one: Item) -> Iterator[Start | Prepared | End]:
        for event in events_of(int(one.name), *lengths[int(one.name)]):
            if isinstance(event, Exception):
                raise event
            yield event

    items = map(item, range(len(lengths)))
    with closing(prefetch(items, read, workers=workers, depth=depth, ahead=ahead)) as events:
        check(list(encode_batches(events, encode, batch_size, in_order=True)), lengths)


def test_an_item_comes_out_as_soon_as_its_last_row_is_encoded() -> None:
    fed: list[int] = []

    def events() -> Iterator[tuple[Item, ReadEvent]]:
        for k in range(3):
            for event in events_of(k, 4, failed=False):
                fed.append(k)
                yield item(k), event

    first = next(encode_batches(events(), encode, batch_size=2))
    assert first.item == item(0)
    assert set(fed) == {0}


@dataclass
class Reading:
    """A reader that counts what it has read and who has it open."""

    rows: int = 100
    read_rows: int = 0
    open: set[str] = field(default_factory=set)
    opened: list[str] = field(default_factory=list)

    def __call__(self, one: Item) -> Iterator[Start | Prepared | End]:
        self.open.add(one.name)
        self.opened.append(one.name)
        try:
            yield Start(None)
            for row in range(self.rows):
                self.read_rows += 1
                yield Prepared(row, 0.0, 0.0)
            yield End(1.0)
        finally:
            self.open.discard(one.name)


def settle(reading: Reading) -> None:
    """Until the readers stand still."""
    before, still = (-1, -1), 0
    while still < 5:  # a busy machine starts its threads late
        time.sleep(0.05)
        now = reading.read_rows, len(reading.opened)
        still = still + 1 if now == before else 0
        before = now


@pytest.mark.parametrize(("workers", "depth"), [(1, 3), (3, 4)])
def test_reading_ahead_is_bounded(workers: int, depth: int) -> None:
    reading = Reading()
    with closing(prefetch(map(item, range(10)), reading, workers=workers, depth=depth)) as events:
        taken = 0
        for wanted in (1, 20, 90):
            while taken < wanted:
                taken += isinstance(next(events)[1], Prepared)
            settle(reading)
            # In the queue (where Start takes a place, too) and in the hand of each reader.
            assert reading.read_rows - taken <= workers * (depth + 1)
            assert len(reading.opened) == workers


def test_short_items_are_read_ahead_of_their_turn_by_few_threads() -> None:
    reading = Reading(rows=1)
    with closing(prefetch(map(item, range(50)), reading, workers=2, depth=4, ahead=8)) as events:
        next(events)
        settle(reading)
        assert len(reading.opened) == 8
        assert not reading.open
        taken = [next(events) for _ in range(3 * 6)]  # up to the first event of the seventh
        settle(reading)
        assert len(reading.opened) == 8 + 6
        assert sum(isinstance(event, Prepared) for _, event in (*taken, *events)) == 50


def test_closing_stops_the_readers_and_closes_their_files() -> None:
    reading = Reading(rows=10**9)
    events = prefetch(map(item, range(10)), reading, workers=3, depth=2)
    next(events)
    settle(reading)
    assert reading.open == {"0", "1", "2"}
    started = time.monotonic()
    events.close()
    assert time.monotonic() - started < 2
    assert reading.open == set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]


def test_an_exception_in_a_thread_reaches_the_consumer_and_the_others_go_on() -> None:
    def read(one: Item) -> Iterator[Start | Prepared | End]:
        yield Start(None)
        if one.name == "1":
            raise OSError("the disk fell over")
        yield Prepared(1, 0.0, 0.0)
        yield End(1.0)

    with closing(prefetch(map(item, range(3)), read, workers=2, depth=2)) as events:
        results = list(encode_batches(events, encode, 2, in_order=True))
    assert [type(result) for result in results] == [Encoded, Failed, Encoded]
    assert str(results[1].error) == "the disk fell over"  # pyright: ignore[reportAttributeAccessIssue]


def test_a_reader_without_an_end_fails_rather_than_hangs() -> None:
    def read(one: Item) -> Iterator[Start | Prepared | End]:
        yield Start(None)

    ((_, start), (_, failure)) = prefetch([item(0)], read, workers=1, depth=1)
    assert isinstance(start, Start)
    assert isinstance(failure, RuntimeError)
    assert "0.mp4: its reader stopped without an End" in str(failure)


def test_an_exception_of_the_encoder_ends_the_run_and_the_readers() -> None:
    reading = Reading(rows=10**9)

    def broken(samples: Sequence[int]) -> dict[str, np.ndarray]:
        raise RuntimeError("out of memory")

    with (
        pytest.raises(RuntimeError, match="out of memory"),
        closing(prefetch(map(item, range(3)), reading, workers=2, depth=2)) as events,
    ):
        list(encode_batches(events, broken, 4))
    assert reading.open == set()
