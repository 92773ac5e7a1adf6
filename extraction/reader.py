"""One reader process, seen from its parent."""

import os
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, Pipe

from extraction.events import Prepared, Rows
from extraction.fork_server import fork_server
from extraction.reader_process import read_all, warm_up
from extraction.ring import Ring
from utils.types import Item


@dataclass(eq=False)
class Task:
    number: int
    item: Item
    skip: int  # rows that are not wanted, or not any more
    started: bool = False
    alone: bool = False  # in a process that reads nothing else


@dataclass(eq=False)
class Reader:
    """One process, seen from here."""

    pid: int
    connection: Connection
    ring: Ring
    base_bytes: int
    tasks: dict[int, Task] = field(default_factory=dict)  # handed out, not finished
    num_tasks: int = 0  # handed out so far
    end: str = ""  # why it was killed, if we did
    sign: tuple[int, int] = (0, 0)
    silent_looks: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)  # two threads send

    @classmethod
    def start(cls, rows: Rows, slots: int) -> "Reader":
        server = fork_server(warm_up)
        ours, theirs = Pipe()
        memory = Ring.file(slots)
        try:
            pid = server.start(read_all, (rows, slots, _here()), (theirs.fileno(), memory))
            return cls(pid, ours, Ring(memory, slots), private_bytes(pid))
        finally:
            theirs.close()
            os.close(memory)

    @property
    def alone(self) -> bool:
        return any(task.alone for task in self.tasks.values())

    def send(self, message: tuple[int, Item, int] | None) -> None:
        with self.lock, suppress(OSError):  # a dead one is found out soon
            self.connection.send(message)

    def take(self, event: Prepared) -> Prepared:
        """With its content out of shared memory; wakes the reader if that is what it waits for."""
        event = replace(event, content=self.ring.take(event.content))
        if self.ring.wanted and self.ring.freed >= self.ring.wanted:
            self.send(None)
        return event

    def kill(self, reason: str) -> None:
        self.end = reason
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def finish(self, *, patience_seconds: float = 0.0) -> int:
        """Its exit status; see `ForkServer.end`. It leaves by itself once it sees that nobody listens."""
        self.connection.close()
        return fork_server(warm_up).end(self.pid, patience_seconds=patience_seconds)


def _here() -> str:
    """The current folder, which may be another one by now than when the fork server was made."""
    try:
        return os.getcwd()
    except OSError:  # it is gone
        return ""


def private_bytes(pid: int) -> int:
    """Memory that is not shared with other processes' files; 0 for a process that has ended."""
    with suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/statm") as file:
        _, resident, shared = (int(number) for number in file.read().split()[:3])
        return (resident - shared) * os.sysconf("SC_PAGESIZE")
    return 0
