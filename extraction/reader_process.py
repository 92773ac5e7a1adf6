"""What a reader process does: it reads one item after another, and sends what comes of them.

Messages to it are `(number, item, skip)`, or None to wake it up when a slot is free; messages from it are lists of
`(number, event)`, a few events together, with the pictures in the `Ring`.
"""

import gc
import os
import pickle
import time
import traceback
from collections import deque
from contextlib import closing
from dataclasses import replace
from multiprocessing.connection import Connection

import numpy as np

import extraction.rows  # noqa: F401  # so that readers have it loaded
from extraction.events import Prepared, ReadEvent, Rows
from extraction.preprocess import Preprocess
from extraction.ring import Ring
from extraction.threads import use_one_thread_here
from media.images import image_suffixes
from utils import heartbeat
from utils.types import Item

_TOGETHER = 8  # events in a message
_LATEST_SECONDS = 0.005
_COLLECT_AFTER_SECONDS = 0.1

Job = tuple[int, Item, int]


def warm_up() -> None:
    """What every reader would do at its first item (0.2 s): done once, by the process that they are copies of."""
    use_one_thread_here()
    image_suffixes()
    Preprocess(8, "fast").frame(np.zeros((16, 16, 3), np.uint8))


def read_all(rows: Rows, slots: int, folder: str, connection_fd: int, memory_fd: int) -> None:
    """Until the parent closes its end. Paths are relative to `folder`."""
    if folder:
        os.chdir(folder)
    port = _Port(Connection(connection_fd), Ring(memory_fd, slots))
    os.close(memory_fd)  # it is mapped
    while True:
        number, item, skip = port.next_job()
        port.ring.item, started = number, time.monotonic()
        try:
            with closing(rows.read(item, skip=skip)) as events:  # pyright: ignore[reportArgumentType]
                for event in events:
                    port.send(number, event)
        except (BrokenPipeError, ConnectionResetError, EOFError):
            raise
        except Exception as error:  # whatever goes wrong here must reach the one who waits for its events
            port.send(number, _sendable(error))
        if time.monotonic() - started > _COLLECT_AFTER_SECONDS:
            gc.collect()  # a decoder that crashes when it is freed does so while its item is named
        port.ring.item = 0


class _Port:
    """The reader's end of pipe and ring."""

    def __init__(self, connection: Connection, ring: Ring) -> None:
        self._connection, self.ring = connection, ring
        self._jobs: deque[Job] = deque()
        self._events: list[tuple[int, ReadEvent]] = []
        self._since_seconds = 0.0  # of the first of `_events`
        self._beats = 0
        heartbeat.listen(self._beat)

    def next_job(self) -> Job:
        while not self._jobs:
            if not self._connection.poll():
                self._flush()
            self._receive()
        return self._jobs.popleft()

    def send(self, number: int, event: ReadEvent) -> None:
        """Soon: with a few others, or when this waits for something."""
        self._beat()
        if isinstance(event, Prepared):
            if self.ring.full:
                self._wait_for_slot()
            event = replace(event, content=self.ring.put(event.content))
        now = time.monotonic()
        self._since_seconds = self._since_seconds if self._events else now
        self._events.append((number, event))
        if len(self._events) >= _TOGETHER or now - self._since_seconds > _LATEST_SECONDS:
            self._flush()

    def _wait_for_slot(self) -> None:
        """Until half of them are free: waking up for every single one costs more than it brings."""
        self._flush()
        self.ring.wanted = self.ring.written - self.ring.slots // 2
        while self.ring.freed < self.ring.wanted:
            if self._connection.poll(0.1):  # not for ever: parent and reader may just have missed each other
                self._receive()
        self.ring.wanted = 0

    def _receive(self) -> None:
        """EOFError when the parent is gone."""
        message = self._connection.recv()
        if message is not None:
            self._jobs.append(message)

    def _flush(self) -> None:
        if self._events:
            self._connection.send(self._events)
            self._events = []

    def _beat(self) -> None:
        self._beats += 1
        self.ring.beats = self._beats


def _sendable(error: Exception) -> Exception:
    """As it is if it survives pickling, with its traceback as a note, which pickling would lose."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        same = pickle.loads(pickle.dumps(error))
    except Exception:
        same = None
    return error if type(same) is type(error) else RuntimeError(f"{type(error).__name__}: {error}")
