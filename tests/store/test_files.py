"""`atomic_write`: the new content or the old one, never half of it, whatever happens."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from store.files import atomic_write
from utils.errors import MediaError, UserError


def write(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_writes_and_replaces_and_makes_parents(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.bin"
    write(path, b"one")
    write(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(path.parent) == ["x.bin"]


def test_nothing_is_visible_under_the_name_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    with atomic_write(path) as file:
        file.write(b"one")
        file.flush()
        assert not path.exists()
        (part,) = names(tmp_path)
        assert part.startswith(".x.bin.")
        assert part.endswith(".part")
    assert names(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, FileNotFoundError])
def test_an_exception_in_the_block_keeps_the_old_content(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "x.bin"
    write(path, b"old")

    def fail() -> None:
        with atomic_write(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "advice"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "not allowed"), (errno.EIO, "check the disk")]
)
def test_a_failing_disk_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, advice: str
) -> None:
    path = tmp_path / "x.bin"
    write(path, b"old")

    def fail(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(UserError, match=advice) as caught:
        write(path, b"new")
    assert str(path) in str(caught.value)
    assert not isinstance(caught.value, MediaError)  # the run must stop: the next item would fail as well
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_inside_the_block(tmp_path: Path, number: int) -> None:
    with pytest.raises(UserError, match="disk is full"), atomic_write(tmp_path / "x.bin"):
        raise OSError(number, "no space")
    assert names(tmp_path) == []


@pytest.mark.parametrize(("number", "advice"), [(errno.EIO, "check the disk"), (errno.EMFILE, "too many files")])
def test_a_write_that_fails_inside_the_block(tmp_path: Path, number: int, advice: str) -> None:
    with pytest.raises(UserError, match=advice) as caught, atomic_write(tmp_path / "x.bin"):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith(f"{tmp_path / 'x.bin'}: ")
    assert names(tmp_path) == []


def test_another_file_that_fails_inside_the_block_is_not_taken_for_this_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="another") as caught, atomic_write(tmp_path / "x.bin"):
        raise OSError(errno.EIO, os.strerror(errno.EIO), "another")
    assert caught.value.filename == "another"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' always full device")
def test_numpy_on_a_really_full_device(tmp_path: Path) -> None:
    def save() -> None:
        with atomic_write(tmp_path / "x.npy") as file:
            full = os.open("/dev/full", os.O_WRONLY)
            os.dup2(full, file.fileno())
            os.close(full)
            np.save(file, np.zeros(100_000))

    with pytest.raises(UserError, match="disk is full"):
        save()
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' always full device")
def test_torch_on_a_really_full_device(tmp_path: Path) -> None:
    def save() -> None:
        with atomic_write(tmp_path / "x.pt") as file:
            full = os.open("/dev/full", os.O_WRONLY)
            os.dup2(full, file.fileno())
            os.close(full)
            torch.save({"weights": torch.zeros(100_000)}, file)

    with pytest.raises(UserError, match="disk is full"):
        save()
    assert names(tmp_path) == []


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "output").write_bytes(b"")
    with pytest.raises(UserError, match="in the way"):
        write(tmp_path / "output" / "x.bin", b"new")
    (tmp_path / "folder.bin" / "inner").mkdir(parents=True)
    with pytest.raises(UserError, match="in the way"):
        write(tmp_path / "folder.bin", b"new")
    assert names(tmp_path) == ["folder.bin", "output"]


@pytest.mark.parametrize("name", ["a" * 255, "ü" * 127, "猫" * 85, "100% 'of' \"it\" $x;*.npy", "-x.npy"])
def test_any_name_the_file_system_takes(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, b"new")
    assert names(tmp_path) == [name]


def test_a_name_that_is_too_long_is_about_this_input_only(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="too long"):
        write(tmp_path / ("a" * 256), b"new")
    assert names(tmp_path) == []


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    write(tmp_path / "ours", b"")
    (tmp_path / "any").write_bytes(b"")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "any").stat().st_mode)


def test_writers_at_the_same_time_do_not_clobber_each_other(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    contents = [bytes([number]) * 100_000 for number in range(8)]
    threads = [threading.Thread(target=write, args=(path, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert names(tmp_path) == ["x.bin"]


def test_file_and_then_folder_are_forced_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the folder a power cut can undo the rename."""
    forced = []
    monkeypatch.setattr(os, "fsync", lambda number: forced.append(stat.S_ISDIR(os.fstat(number).st_mode)))
    write(tmp_path / "x.bin", b"new")
    assert forced == [False, True]


def test_kill_in_the_middle_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write(path, b"old")
    code = (
        "import os, signal, sys; from store.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file:\n"
        "    file.write(b'new' * 10000); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=root, env=os.environ | {"PYTHONPATH": str(root)}
    )
    assert result.returncode == -9
    assert path.read_bytes() == b"old"
    (left,) = set(names(tmp_path)) - {"x.bin"}
    assert left.endswith(".part")
    write(path, b"newer")  # the first that this process writes there
    assert path.read_bytes() == b"newer"
