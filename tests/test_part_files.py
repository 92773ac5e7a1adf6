"""Part files tell whether their writer lives: what the dead leave is removed, what is being written never."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.helpers.shared_data import ROOT
from utils import part_files
from utils.part_files import part_file, remove_leftovers

KILLED = """
import os, signal, sys
from pathlib import Path
from utils.part_files import part_file
with part_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_while_writing(path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT).returncode == -9


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_next_process_that_writes_there_takes_away_what_a_killed_one_left(tmp_path: Path) -> None:
    killed_while_writing(tmp_path / "last.pt")
    (left,) = names(tmp_path)
    assert part_files.NAME.fullmatch(left)
    with part_file(tmp_path / "other.pt") as file:
        (mine,) = names(tmp_path)
        assert mine == Path(file.name).name != left
    assert names(tmp_path) == []


def test_what_is_being_written_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    others = {".download.part", "model.pt.part", "below/.x.part", f".x.{'0' * 15}g.part"}
    for name in others:
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (0, 0))
    dead = tmp_path / "below" / f".dog\n1.npy.{'0' * 16}.part"
    dead.write_bytes(b"half")
    with part_file(tmp_path / "below" / "new.npy") as file:
        os.utime(file.name, (0, 0))  # age says nothing
        dead.write_bytes(b"half")
        remove_leftovers(tmp_path)
        assert dead.exists()  # not asked for
        remove_leftovers(tmp_path, below=True)
        assert set(names(tmp_path)) == others | {Path(file.name).relative_to(tmp_path).as_posix()}
    assert set(names(tmp_path)) == others


def test_one_taken_away_before_it_is_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, seen = part_files._lock, []

    def late(file, *, wait):
        if not seen:
            seen.append(file.name)
            os.unlink(file.name)  # another process takes it for a dead one's
        return lock(file, wait=wait)

    monkeypatch.setattr(part_files, "_lock", late)
    with part_file(tmp_path / "x") as file:
        assert Path(file.name).exists()
        assert file.name != seen[0]
    assert names(tmp_path) == []


def test_without_locks_only_age_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    old, young = (tmp_path / f".x.{digit * 16}.part" for digit in "01")
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    with part_file(tmp_path / "x") as file:
        assert set(names(tmp_path)) == {young.name, Path(file.name).name}


def test_cleaning_while_others_write_costs_them_nothing(tmp_path: Path) -> None:
    stop, problems = threading.Event(), []

    def write(number: int) -> None:
        try:
            for _ in range(200):
                with part_file(tmp_path / str(number)) as file:
                    file.write(b"x" * 100)
                    file.flush()
                    os.replace(file.name, tmp_path / str(number))
        except OSError as error:
            problems.append(error)

    def clean() -> None:
        while not stop.is_set():
            remove_leftovers(tmp_path)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    cleaner = threading.Thread(target=clean)
    for thread in (cleaner, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    cleaner.join()
    assert problems == []
    assert names(tmp_path) == ["0", "1"]
