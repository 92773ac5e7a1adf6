"""Threads before and behind the encoder: items are read ahead, and what is complete is handed on.

Everything is bounded: `ahead` items are open at a time, each at most `depth` rows ahead of the encoder, and as many
results wait to be handed on as `Background` may hold.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, suppress
from itertools import islice
from queue import Empty, Queue
from threading import Event
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from extraction.events import End, Prepared, ReadEvent, Start
from utils.types import Item

Reader = Callable[..., Iterator[Start | Prepared | End]]  # read(item), or read(item, skip=rows not wanted)


def prefetch(
    items: Iterable[Item],
    read: Reader,
    *,
    workers: int,
    depth: int,
    ahead: int | None = None,
    skip: Callable[[Item], int] = lambda item: 0,
) -> Generator[tuple[Item, ReadEvent], None, None]:
    """Events of all items, in the items' order, while `workers` threads read up to `ahead` items before their turn.

    `items` is asked for an item when there is room to read it. Every item ends with `End` or an exception. Of each, the
    first `skip(item)` rows are left out. Closing this generator stops the threads promptly.
    """
    stop, waiting = Event(), iter(items)
    open_items: deque[tuple[Item, Queue[ReadEvent]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="read", initializer=use_one_thread_here) as pool:
        try:
            while True:
                for item in islice(waiting, (ahead or workers) - len(open_items)):
                    open_items.append((item, Queue(maxsize=depth)))
                    pool.submit(_read_into, open_items[-1][1], item, read, skip, stop)
                if not open_items:
                    return
                item, queue = open_items[0]
                event: ReadEvent | None = None
                while not isinstance(event, End | Exception):
                    event = queue.get()
                    yield item, event
                open_items.popleft()
        finally:
            stop.set()
            for _, queue in open_items:  # a reader that waits for room gets it, and sees that it is to stop
                with suppress(Empty):
                    queue.get_nowait()


def use_one_thread_here() -> None:
    """Keep what this thread does (resizing, converting) out of OpenMP; an `initializer` of thread pools.

    Every thread that uses OpenMP gets a team of its own whose members wait by spinning; with readers and encoder on
    the same cores that made runs ten times slower (figures in benchmarks/results.md).
    """
    torch.get_num_threads()  # PyTorch sets up a thread's OpenMP on first use, which would undo the limit
    threadpool_limits(limits=1, user_api="openmp")


def _read_into(queue: "Queue[ReadEvent]", item: Item, read: Reader, skip: Callable[[Item], int], stop: Event) -> None:
    try:
        event, num_skipped = None, skip(item)
        with closing(read(item, skip=num_skipped) if num_skipped else read(item)) as events:  # pyright: ignore
            while not stop.is_set() and (event := next(events, None)) is not None:
                queue.put(event)
        if not isinstance(event, End):  # the one who waits for it would wait for ever
            raise RuntimeError(f"{item.path}: its reader stopped without an End")
    except Exception as error:  # whatever goes wrong in a thread must reach the one who waits for its events
        if not stop.is_set():
            queue.put(error)


class Background(AbstractContextManager["Background"]):
    """A thread that works behind the main loop: calls run one after another, at most `depth` of them waiting.

    What one of them raises comes out of the next `run`, or of leaving the block; those behind it do not run.
    """

    def __init__(self, *, depth: int) -> None:
        self._depth = depth  # each holds its arguments in memory
        self._waiting: deque[Future[None]] = deque()
        self._failed = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")

    def run(self, call: Callable[..., None], *arguments: Any) -> None:
        while self._waiting and (len(self._waiting) >= self._depth or self._waiting[0].done()):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._guarded, call, *arguments))

    def _guarded(self, call: Callable[..., None], *arguments: Any) -> None:
        if self._failed:
            return
        try:
            call(*arguments)
        except BaseException:
            self._failed = True
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits for what is left. In an error, finished items behind it are not lost: they are handed on as well."""
        try:
            while kind is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(wait=True)
