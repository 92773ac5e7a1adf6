"""`python main.py ...` without its seconds of imports: this process imports all that runs need, and forks each.

A run may be killed by the clock, or at its n-th file operation, which may also fail in its stead. Operations are those
on files below the run's folder that Python tells of (`sys.addaudithook`), writes through descriptors and `fsync`.
"""

import atexit
import importlib
import json
import os
import random
import resource
import runpy
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers.shared_data import ROOT

_CHANGES = frozenset(
    {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod"}
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_SLOW_TO_IMPORT = ("torch", "torchvision", "hydra", "h5py", "extraction.extractor")  # once here, not in the first run
_STRAY_SECONDS = 5.0  # until what a killed run had started must be gone


@dataclass(frozen=True)
class Fault:
    """At operation number `at` (1 = the first): SIGKILL, or an OSError with `errno`. `reads` counts those, too."""

    at: int
    errno: int | None = None
    reads: bool = False


@dataclass(frozen=True)
class Ended:
    """How a run came to its end."""

    status: int  # negative: the signal
    output: str  # stdout and stderr
    seconds: float
    operations: int  # counted, with a fault that never came
    strays: int  # processes that outlived it, and were then killed

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


def run(
    arguments: Sequence[str],
    folder: Path,
    *,
    fault: Fault | None = None,
    kill_after: float = 120.0,
    memory_bytes: int = resource.RLIM_INFINITY,
) -> Ended:
    """In `folder`, an existing one; killed after so many seconds, with so much memory of its own at most."""
    log, counted = folder.with_name(folder.name + ".log"), folder.with_name(folder.name + ".operations")
    counted.unlink(missing_ok=True)
    started = time.monotonic()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _child(arguments, folder, log, counted, fault, memory_bytes)
    status = _wait(pid, started + kill_after)
    seconds = time.monotonic() - started
    operations = int(counted.read_text()) if counted.exists() else 0
    return Ended(status, log.read_text(errors="replace"), seconds, operations, _strays(pid))


def _wait(pid: int, end: float) -> int:
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            os.kill(pid, signal.SIGKILL)  # this one only: what it has started has to notice by itself
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        time.sleep(0.002)


def _child(
    arguments: Sequence[str], folder: Path, log: Path, counted: Path, fault: Fault | None, memory_bytes: int
) -> None:
    """Never returns: does what the interpreter does around a program, and ends."""
    status = 1
    try:
        os.setsid()
        os.chdir(folder)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, resource.RLIM_INFINITY))
        random.seed()
        operations = watch(folder, fault)
        sys.argv = ["main.py", *arguments]
        runpy.run_path(str(ROOT / "main.py"), run_name="__main__")
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    with suppress(BaseException):
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        counted.write_text(str(len(operations)))
    os._exit(status)


def watch(folder: Path, fault: Fault | None) -> list[str]:
    """From now on notes every operation below `folder` in this process, and lets `fault` happen."""
    seen: list[str] = []
    me, home = os.getpid(), f"{folder.resolve()}{os.sep}"
    reads = frozenset({"os.listdir", "os.scandir"}) if fault and fault.reads else frozenset()

    def note(event: str, target: Any) -> None:
        path = _path(target)
        if os.getpid() != me or path is None or not path.startswith(home):
            return
        seen.append(f"{event} {path.removeprefix(home)}")
        if fault is None or len(seen) != fault.at:
            return
        if fault.errno is None:
            os.kill(me, signal.SIGKILL)
            time.sleep(10)  # the signal is on its way
        raise OSError(fault.errno, os.strerror(fault.errno), path)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if (arguments[2] or 0) & _WRITES or (reads and arguments[0] is not None):
                note(event, arguments[0])
        elif event in _CHANGES or event in reads:
            note(event, arguments[0])

    for name in ("fsync", "write", "pwrite"):
        setattr(os, name, _noted(name, getattr(os, name), note))
    sys.addaudithook(hook)
    return seen


def _noted(name: str, call: Callable[..., Any], note: Callable[[str, Any], None]) -> Callable[..., Any]:
    def noted(descriptor: int, *arguments: Any) -> Any:
        note(name, descriptor)
        return call(descriptor, *arguments)

    return noted


def _path(target: Any) -> str | None:
    try:
        if isinstance(target, int):
            return os.readlink(f"/proc/self/fd/{target}")
        return os.path.abspath(os.fsdecode(target)) if target is not None else None
    except (OSError, TypeError, ValueError):
        return None


def _strays(session: int) -> int:
    """Processes of a session that do not end by themselves."""
    end = time.monotonic() + _STRAY_SECONDS
    while (left := list(_members(session))) and time.monotonic() < end:
        time.sleep(0.02)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(left)


def _members(session: int) -> Iterator[int]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError, ValueError, IndexError):
                state, _, _, own = Path(f"/proc/{entry}/stat").read_text().rpartition(") ")[2].split()[:4]
                if int(own) == session and state != "Z":
                    yield int(entry)


def warm_up(arguments: Sequence[Sequence[str]], folder: Path) -> None:
    """Imports into this process what runs with these arguments import, so that later ones start at once."""
    for name in _SLOW_TO_IMPORT:
        importlib.import_module(name)
    for number, each in enumerate(arguments):
        place = folder / f"warm{number}"
        place.mkdir(parents=True)
        pid = os.fork()
        if pid == 0:
            atexit.register(_tell_modules, folder / "modules.json")
            _child(each, place, folder / f"warm{number}.log", folder / "operations", None, resource.RLIM_INFINITY)
        os.waitpid(pid, 0)
        for name in json.loads((folder / "modules.json").read_text()):
            with suppress(Exception):
                importlib.import_module(name)
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        raise RuntimeError(f"{threads} threads: forks of this process could hang")


def _tell_modules(path: Path) -> None:
    path.write_text(json.dumps([name for name in list(sys.modules) if not name.startswith("__")]))
