"""Reading in processes of its own: a file that kills, stops or bloats its decoder costs that file, and nothing else.

A thread hands out items and takes in what the readers send; the caller takes rows out of shared memory when it wants
them, which is what holds the readers back. Events of several items come mixed, those of one item in order.
"""

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing.connection import Pipe, wait
from queue import SimpleQueue

from extraction.events import End, Prepared, ReadEvent, Rows, Start
from extraction.fork_server import AVAILABLE, fork_server
from extraction.reader import Reader, Task, private_bytes
from extraction.reader_process import warm_up
from utils.errors import MediaError, UserError
from utils.types import Item

_LOOK_SECONDS = 0.25
_PATIENCE_SECONDS = 1.0  # with a reader that is to leave
_GB = 1 << 30
_MOST_IN_VAIN = 3  # readers in a row that ended before they read anything


def make_ready() -> None:
    """To be called early, while this process has no threads and uses no GPU: all readers are copies of it."""
    if AVAILABLE:
        fork_server(warm_up)


class ReaderError(MediaError):
    """The item killed, stopped or bloated its reader: it would do so again."""


def read_in_processes(
    items: Iterable[Item],
    rows: Rows,
    *,
    workers: int,
    depth: int,
    ahead: int,
    timeout_seconds: float,
    memory_gb: float,
    skip: Callable[[Item], int] = lambda item: 0,
) -> Generator[tuple[Item, ReadEvent], None, None]:
    """Events of all items while `workers` processes read, each at most `depth` rows ahead; `ahead` items are open.

    `items` is asked for an item, in another thread, when there is room to read it; its first `skip(item)` rows are not
    wanted. Every item ends with `End` or an exception: `ReaderError` where its reader crashed, made no progress for
    `timeout_seconds` or took `memory_gb` more than at its start. Closing this generator ends the processes.
    """
    make_ready()
    tasks = (Task(number, item, skip(item)) for number, item in enumerate(items, 1))
    dispatcher = _Dispatcher(tasks, rows, workers, depth, ahead, timeout_seconds, memory_gb * _GB)
    try:
        yield from dispatcher.events()
    finally:
        dispatcher.close()


class _Dispatcher:
    """Its thread does all but take rows out; `events` and `close` are for the caller's."""

    def __init__(
        self,
        tasks: Iterator[Task],
        rows: Rows,
        workers: int,
        depth: int,
        ahead: int,
        timeout_seconds: float,
        memory_bytes: float,
    ) -> None:
        self._rows, self._workers, self._depth, self._ahead = rows, workers, depth, ahead
        self._timeout_seconds, self._memory_bytes = timeout_seconds, memory_bytes
        self._tasks, self._again = tasks, deque[Task]()
        self._most_each = max(2, min(8, ahead // workers // 2))
        self._num_taken = self._num_consumed = self._num_in_vain = 0
        self._last_look_seconds = time.monotonic()
        self._readers: list[Reader] = []
        self._found: SimpleQueue[tuple[Task, Reader | None, ReadEvent] | BaseException | None] = SimpleQueue()
        self._bell, self._ring_bell = Pipe(duplex=False)
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="readers", daemon=True)
        self._thread.start()

    def events(self) -> Iterator[tuple[Item, ReadEvent]]:
        while (found := self._found.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            task, reader, event = found
            if isinstance(event, Prepared) and reader is not None:
                event = reader.take(event)
            yield task.item, event
            if isinstance(event, End | Exception):
                self._num_consumed += 1
                self._ring_bell.send_bytes(b".")

    def close(self) -> None:
        self._stopped = True
        self._ring_bell.send_bytes(b".")
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopped and self._hand_out():
                for ready in wait([self._bell, *(reader.connection for reader in self._readers)], _LOOK_SECONDS):
                    if ready is self._bell:
                        self._bell.recv_bytes()
                    else:
                        self._receive(next(each for each in self._readers if each.connection is ready))
                self._look()
            self._found.put(None)
        except BaseException as error:  # whoever waits for events hears of it
            self._found.put(error)
        finally:
            for reader in self._readers:
                reader.connection.close()  # of all, so that they leave at the same time
            for reader in self._readers:
                reader.finish(patience_seconds=_PATIENCE_SECONDS)

    def _hand_out(self) -> bool:
        """False when there is nothing left to read, and all of it was taken."""
        while (task := self._next_task()) is not None:
            reader = self._reader_for(task)
            if reader is None:
                self._again.appendleft(task)
                break
            reader.tasks[task.number] = task
            reader.num_tasks += 1
            reader.send((task.number, task.item, task.skip))
        return self._num_consumed < self._num_taken

    def _next_task(self) -> Task | None:
        if self._again:
            return self._again.popleft()
        if self._num_taken - self._num_consumed >= self._ahead:
            return None
        task = next(self._tasks, None)
        self._num_taken += task is not None
        return task

    def _reader_for(self, task: Task) -> Reader | None:
        """One that has nothing to do, or a new one, or that with the least to do; None while all have enough."""
        idle = [reader for reader in self._readers if not reader.tasks]
        if idle:
            return self._replaced(idle[0]) if task.alone and idle[0].num_tasks else idle[0]
        if len(self._readers) < self._workers:
            self._readers.append(Reader.start(self._rows, self._depth))
            return self._readers[-1]
        with_room = [each for each in self._readers if len(each.tasks) < self._most_each and not each.alone]
        return None if task.alone else min(with_room, key=lambda reader: len(reader.tasks), default=None)

    def _receive(self, reader: Reader) -> None:
        try:
            messages = reader.connection.recv()
        except (EOFError, OSError):
            self._bury(reader)
            return
        for number, event in messages:
            task = reader.tasks[number]
            if isinstance(event, Start) and task.started:
                continue
            task.started = True
            task.skip += isinstance(event, Prepared)
            if isinstance(event, End | Exception):
                del reader.tasks[number]
            self._found.put((task, reader, event))

    def _look(self) -> None:
        """At readers that do not move, or that take too much memory."""
        now = time.monotonic()
        if now - self._last_look_seconds < _LOOK_SECONDS:
            return
        self._last_look_seconds = now  # a pause of this process counts as one look, whatever its length
        for reader in self._readers:
            ring, sign = reader.ring, (reader.ring.item, reader.ring.beats)
            waits = not reader.tasks or ring.freed < ring.wanted
            reader.silent_looks = reader.silent_looks + 1 if sign == reader.sign and not waits else 0
            reader.sign = sign
            if reader.silent_looks * _LOOK_SECONDS >= self._timeout_seconds:
                reader.kill(f"no progress in reading for {self._timeout_seconds:g} s (read_timeout)")
            elif private_bytes(reader.pid) - reader.base_bytes > self._memory_bytes:
                reader.kill(f"reading it took more than {self._memory_bytes / _GB:g} GB of memory (read_memory)")

    def _bury(self, reader: Reader) -> None:
        """What it was at is lost; what waited behind that is read by others. If it was at nothing, one of the items
        before may be to blame, or one of those that wait: each of them is read in a process of its own.
        """
        status = reader.finish()
        self._readers.remove(reader)
        culprit, tasks = reader.ring.item, list(reader.tasks.values())
        self._num_in_vain = 0 if culprit or reader.ring.beats else self._num_in_vain + 1
        if reader.alone:
            culprit = tasks[0].number
        if self._num_in_vain > _MOST_IN_VAIN:
            raise UserError(
                f"reader processes end before they have read anything ({_how(status)}): workers=0 does without them"
            )
        for task in reversed(tasks):
            if task.number == culprit:
                reason = reader.end or f"the decoder {_how(status)}"
                self._found.put((task, None, ReaderError(f"{task.item.path}: {reason}")))
            else:
                task.alone = task.alone or not culprit
                self._again.appendleft(task)

    def _replaced(self, reader: Reader) -> Reader:
        reader.finish(patience_seconds=_PATIENCE_SECONDS)
        self._readers[self._readers.index(reader)] = new = Reader.start(self._rows, self._depth)
        return new


def _how(status: int) -> str:
    if status == -signal.SIGKILL:
        return "was killed: signal 9 (is the machine out of memory?)"
    return f"crashed: signal {-status}" if status < 0 else f"ended with status {status}"
