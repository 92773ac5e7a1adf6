"""Locks: an item has one owner at a time, whoever is killed or paused, and nothing is left over at the end."""

import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from store.locks import Locks
from tests.helpers.shared_data import ROOT
from utils.errors import UserError

NAME = "clip/ViT-B_32/dog"


def child(folder: Path, code: str) -> subprocess.Popen[str]:
    """A process with `locks` on `folder`; it prints "ready" where the code says so."""
    start = "import os, sys, time; from pathlib import Path; from store.locks import Locks"
    lines = f"{start}\nlocks = Locks(Path(sys.argv[1]))\n{code}"
    return subprocess.Popen([sys.executable, "-c", lines, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


HOLD = f"assert locks.take({NAME!r}); print('ready', flush=True); time.sleep(100)"


def holding(folder: Path, code: str = HOLD) -> subprocess.Popen[str]:
    process = child(folder, code)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_normal_run_leaves_no_trace(tmp_path: Path) -> None:
    with Locks(tmp_path / "output") as locks:
        assert not (tmp_path / "output").exists()  # nothing taken, nothing written
        for number in range(3):
            assert locks.take(str(number))
            locks.release(str(number))
            locks.release(str(number))  # again: nothing
        assert list((tmp_path / "output" / ".locks").iterdir()) == []
        assert locks.take("given up at the end")
    assert list((tmp_path / "output").iterdir()) == []


def test_a_run_that_takes_nothing_writes_nothing(tmp_path: Path) -> None:
    with Locks(tmp_path / "output") as locks:
        assert locks.holder(NAME) == "another process"
    assert list(tmp_path.iterdir()) == []


def test_also_after_an_error(tmp_path: Path) -> None:
    def interrupted() -> None:
        with Locks(tmp_path) as locks:
            assert locks.take(NAME)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    with Locks(tmp_path) as locks, Locks(tmp_path) as other:
        assert locks.take(NAME)
        assert not locks.take(NAME)  # nor by this process again
        assert not other.take(NAME)
        assert other.holder(NAME).endswith(f", process {os.getpid()}")
        other.release(NAME)  # not its own to release
        assert not other.take(NAME)
        locks.release(NAME)
        assert other.take(NAME)
        assert not locks.take(NAME)


def test_any_string_is_a_name(tmp_path: Path) -> None:
    names = [
        "",
        ".",
        "..",
        "/",
        "a/../b",
        "x" * 5000,
        "ü\n\0\udcff",
        "a b",
        "a_b",
        "A",
        "a",
        "a.1.b",
        "名",
        "nul",
        "-rf",
    ]
    with Locks(tmp_path) as locks:
        assert all(locks.take(name) for name in names)
        assert not any(locks.take(name) for name in names)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_owner_is_free_at_once(tmp_path: Path) -> None:
    process = holding(tmp_path)
    with Locks(tmp_path) as locks:
        assert not locks.take(NAME)
        end(process)
        assert locks.take(NAME)
        assert locks.holder(NAME).endswith(f", process {os.getpid()}")


def test_files_of_the_killed_are_removed_by_the_next_to_leave(tmp_path: Path) -> None:
    end(holding(tmp_path))
    process = holding(tmp_path, HOLD.replace("dog", "cat"))
    with Locks(tmp_path):
        assert len(list((tmp_path / ".locks").iterdir())) == 2
    assert len(list((tmp_path / ".locks").iterdir())) == 1  # that of the one who lives
    end(process)
    with Locks(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_paused_owner_keeps_what_it_holds(tmp_path: Path) -> None:
    process = holding(tmp_path, f"{HOLD.replace('100', '0.5')}; locks.release({NAME!r}); print('ready', flush=True)")
    os.kill(process.pid, signal.SIGSTOP)
    try:
        with Locks(tmp_path) as locks:
            time.sleep(1)
            assert not locks.take(NAME)
            os.kill(process.pid, signal.SIGCONT)
            process.wait(30)
            assert locks.take(NAME)
    finally:
        end(process)


def test_children_do_not_keep_what_their_parent_held(tmp_path: Path) -> None:
    """A decoder in a process of its own, say, that outlives a killed parent."""
    code = f"""
assert locks.take({NAME!r})
other = __import__('subprocess').Popen(['sleep', '5'])
child = os.fork()
if child == 0:
    time.sleep(5)
    os._exit(0)
print('ready', flush=True)
time.sleep(100)
"""
    process = holding(tmp_path, code)
    process.kill()
    process.wait()
    end = time.monotonic() + 4  # the fork gives it up when its turn comes; both outlive that
    with Locks(tmp_path) as locks:
        while not (taken := locks.take(NAME)) and time.monotonic() < end:
            time.sleep(0.05)
        assert taken
    assert process.stdout is not None
    process.stdout.close()


def test_threads_take_each_item_once(tmp_path: Path) -> None:
    """Three owners, four threads each, everybody tries everything; an item taken is done, and looked at again."""
    done, work = set(), Counter()
    owners = [Locks(tmp_path) for _ in range(3)]

    def run(number: int) -> None:
        locks = owners[number % 3]
        for name in map(str, range(100)):
            if locks.take(name):
                if name not in done:
                    work[name] += 1  # not atomic: two owners at once lose one, or count two
                    time.sleep(0.0005)
                    done.add(name)
                locks.release(name)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(run, range(12)))
    for each in owners:
        each.__exit__()
    assert work == dict.fromkeys(map(str, range(100)), 1)
    assert list(tmp_path.iterdir()) == []


def test_processes_exclude_each_other_while_files_come_and_go(tmp_path: Path) -> None:
    """The delicate part: the lock's file, and the folder, are removed at every release."""
    code = """
with locks:
    num = 0
    end = time.monotonic() + 3
    while time.monotonic() < end:
        if locks.take('x'):
            os.mkdir(sys.argv[1] + '/mine')  # fails if another one is in here
            os.rmdir(sys.argv[1] + '/mine')
            locks.release('x')
            num += 1
        if num % 10 == 0:
            locks.__exit__()
print(num)
"""
    processes = [child(tmp_path, code) for _ in range(4)]
    counts = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sum(map(int, counts)) > 100
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL])
def test_a_disk_without_locks_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: int
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", refused)
    with Locks(tmp_path) as locks:
        assert locks.working
        assert locks.take("a")
        assert locks.take("b")
        assert not locks.working
        locks.release("a")
    (record,) = caplog.records
    assert "no working locks" in record.getMessage()
    assert "shard=1/2" in record.getMessage()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="in the way"):
        Locks(tmp_path / "out").take(NAME)


def test_more_items_at_once_than_files_are_usually_allowed(tmp_path: Path) -> None:
    """Only those being worked on count; 100,000 items, one after the other, hold one file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with Locks(tmp_path) as locks:
            assert all(locks.take(str(number)) for number in range(400))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
