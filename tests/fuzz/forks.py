"""Many small cases in forked processes: one that crashes, hangs or eats the memory is counted, and the next begins."""

import json
import logging
import os
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MEMORY_BYTES = 3 << 30
_PER_CHILD = 50  # cases: what one leaves behind in a process (threads, caches) does not pile up


@dataclass
class Child:
    pid: int
    pipe: int
    numbers: list[int]  # still to do, the present one first
    since: float
    rest: bytes = b""


def outcomes(
    numbers: Iterable[int], run: Callable[[int], str], *, processes: int, limit_seconds: float
) -> Iterator[tuple[int, str]]:
    """`run(number)` for each, in children and in no order; failures: "crashed: signal 11", "hung", "error: ...".

    This process must not have started threads.
    """
    waiting = list(numbers)[::-1]
    children: list[Child] = []
    while waiting or children:
        while waiting and len(children) < processes:
            children.append(_start([waiting.pop() for _ in range(min(_PER_CHILD, len(waiting)))], run))
        ready, _, _ = select.select([child.pipe for child in children], [], [], 0.5)
        for child in list(children):
            ended = False
            if child.pipe in ready:
                data = os.read(child.pipe, 65536)
                *lines, child.rest = (child.rest + data).split(b"\n")
                for line in lines:
                    child.since = time.monotonic()
                    yield child.numbers.pop(0), json.loads(line)
                ended = not data
            hung = time.monotonic() - child.since > limit_seconds
            if not ended and not hung:
                continue
            children.remove(child)
            code = _end(child, kill=hung)
            if child.numbers:
                yield child.numbers.pop(0), "hung" if hung else f"crashed: {_name(code)}"
                waiting += child.numbers[::-1]


def _start(numbers: list[int], run: Callable[[int], str]) -> Child:
    reading, writing = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        logging.disable()
        warnings.simplefilter("ignore")
        for number in numbers:
            os.write(writing, json.dumps(_guarded(run, number)).encode() + b"\n")
        os._exit(0)
    os.close(writing)
    return Child(pid, reading, numbers, time.monotonic())


def _guarded(run: Callable[[int], str], number: int) -> str:
    try:
        return run(number)
    except MemoryError:
        return "out of memory"
    except BaseException as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "tests/fuzz" not in frame.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "here"
        return f"error: {type(error).__name__} at {where}: {str(error)[:200]}"


def _end(child: Child, *, kill: bool) -> int:
    if kill:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    os.close(child.pipe)
    return os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])


def _name(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit {code}"


def available_cores() -> int:
    return len(os.sched_getaffinity(0))
