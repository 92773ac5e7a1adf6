"""Calls behind the main loop: in order, bounded, and nothing they raise is lost."""

import threading

import pytest

from extraction.threads import Background


def test_calls_run_in_order_in_one_other_thread() -> None:
    seen: list[tuple[int, int]] = []
    with Background(depth=3) as background:
        for k in range(20):
            background.run(lambda k=k: seen.append((k, threading.get_ident())))
    assert [k for k, _ in seen] == list(range(20))
    assert {thread for _, thread in seen}.isdisjoint({threading.get_ident()})
    assert len({thread for _, thread in seen}) == 1


def test_only_so_many_calls_wait() -> None:
    free, started, taken = threading.Event(), threading.Event(), []

    def call(k: int) -> None:
        started.set()
        free.wait(10)
        taken.append(k)

    def feed(background: Background) -> None:
        for k in range(6):
            background.run(call, k)

    with Background(depth=2) as background:
        feeder = threading.Thread(target=feed, args=(background,))
        feeder.start()
        started.wait(10)
        feeder.join(0.1)
        assert feeder.is_alive()  # waits for room
        free.set()
        feeder.join(10)
    assert taken == list(range(6))


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_what_a_call_raises_comes_out_and_later_calls_do_not_run(error: BaseException) -> None:
    seen: list[int] = []

    def call(k: int) -> None:
        if k == 1:
            raise error
        seen.append(k)

    def run_all() -> None:
        with Background(depth=8) as background:
            for k in range(5):
                background.run(call, k)

    with pytest.raises(type(error)):
        run_all()
    assert seen == [0]


def test_an_error_in_the_block_still_finishes_what_was_handed_over() -> None:
    seen: list[int] = []

    def run_all() -> None:
        with Background(depth=8) as background:
            for k in range(3):
                background.run(seen.append, k)
            raise RuntimeError("the encoder broke")

    with pytest.raises(RuntimeError, match="the encoder broke"):
        run_all()
    assert seen == [0, 1, 2]
