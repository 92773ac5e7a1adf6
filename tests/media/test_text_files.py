"""Lists and texts as other programs leave them, and what is given as one by mistake: one line, and never a hang."""

import json
import os
import socket
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from extraction.work_list import WorkList
from media.caption_files import read_captions_csv, read_karpathy
from media.inputs import find_inputs
from media.text_files import read_lines, read_text
from media.texts import find_texts, read_texts
from store.items import Store
from store.ledger import Ledger
from tests.helpers.shared_data import ROOT
from utils.errors import UserError
from utils.plain_files import check_plain, read_plain

VIDEO = ROOT / "sample" / "v_GGSY1Qvo990.mp4"


def as_list(path: Path) -> None:
    find_inputs(file_with_video_paths=path)


def as_image_list(path: Path) -> None:
    find_inputs(file_with_image_paths=path, id_mode="column")


def as_texts(path: Path) -> None:
    for item in find_texts(file_with_texts=path):
        list(read_texts(item))


def as_captions(path: Path) -> None:
    read_karpathy(path, key="annotations")


def as_csv(path: Path) -> None:
    read_captions_csv(path, key="references")


READERS = (as_list, as_image_list, as_texts, as_captions, as_csv)
Read = Callable[[Path], None]


def odd_file(kind: str, path: Path) -> Path:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    elif kind == "device":
        return Path("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "video":
        return VIDEO
    elif kind == "zeros":
        with path.open("wb") as file:
            file.truncate(1 << 30)
    elif kind == "no mark":
        path.write_bytes("a.mp4\nb.mp4\n".encode("utf-16-le"))
    elif kind == "no name":
        return Path("a\0b")
    elif kind == "long name":
        return Path("x" * 5000)
    return path


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("pipe", "a pipe"),
        ("socket", "a socket"),
        ("device", "a device"),
        ("folder", "a folder"),
        ("missing", "No such file"),
        ("no name", "no name of a file"),
        ("long name", "File name too long"),
        ("video", "control characters|NUL|not UTF-8"),
        ("zeros", "control characters|longer than"),
        ("no mark", "UTF-16 without|NUL"),
    ],
)
def test_what_is_no_text_file_is_one_line(
    read: Read, kind: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    path = odd_file(kind, tmp_path / "x")
    tracemalloc.start()
    with pytest.raises(UserError, match=problem) as caught:
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 30_000_000
    tracemalloc.stop()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_captions_in_every_encoding(encoding: str, tmp_path: Path) -> None:
    entry = {"filename": "ä.jpg", "split": "test", "sentences": [{"raw": "a cät"}]}
    (tmp_path / "x.json").write_bytes(json.dumps({"images": [entry]}, ensure_ascii=False).encode(encoding))
    (tmp_path / "x.csv").write_bytes("image,caption\r\nä.jpg,a cät\r\n".encode(encoding))
    for image in (*read_karpathy(tmp_path / "x.json", key="x"), *read_captions_csv(tmp_path / "x.csv", key="x")):
        assert (image.files, image.texts) == (("ä.jpg",), ["a cät"])


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"images": [{"filename": "a.jpg", "split": "val", "cocoid": 1e999, "sentences": []}]}',
        '{"images": [{"filename": "a.jpg", "split": ["val"], "sentences": []}]}',
        '{"images": [{"filename": "a.jpg", "split": "val", "sentences": [{"raw": "a", "tokens": [1]}]}]}',
        '{"images": [{"filename": "a.jpg", "split": "val", "sentences": 5}]}',
        '{"images": [' + "9" * 5000 + "]}",
    ],
)
def test_poisoned_captions_are_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"Karpathy's json|an image lacks") as caught:
        as_captions(tmp_path / "x.json")
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_lines_are_those_that_were_written(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b'\xef\xbb\xbfa.mp4\r\n"b\x0b.mp4"\nc\0d\nnot \xff utf-8\n' + b"x" * 100_000 + b"\n\nlast\r")
    lines = list(read_lines(path, longest=8192))
    assert lines == ["a.mp4", '"b\x0b.mp4"', "c\0d", "not \udcff utf-8", "x" * 8192, "", "last"]
    path.write_bytes("ä\r\n\nb\n".encode("utf-16-be"))
    with pytest.raises(ValueError, match="UTF-16 without"):
        list(read_lines(path, longest=9))
    path.write_bytes("\ufeffä\r\n\nb\n".encode("utf-16-be"))
    assert list(read_lines(path, longest=9)) == ["ä", "", "b"]
    assert read_text(path) == "ä\r\n\nb\n"


def test_a_line_that_names_no_file_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NUL, names and paths longer than any file's, bytes that are not UTF-8, the list itself, a pipe, and good ones."""
    monkeypatch.chdir(tmp_path)
    odd = os.fsdecode(b"caf\xe9.mp4")
    for name in ("good.mp4", odd):
        (tmp_path / name).write_bytes(b"x")
    os.mkfifo("pipe.mp4")
    bad = ["a\0b.mp4", "y" * 300 + ".mp4", "d/" * 3000 + "z.mp4", "pipe.mp4", "gone.mp4", "~nobody_here/a.mp4"]
    names = ["good.mp4", *bad, odd, "list.txt"]
    (tmp_path / "list.txt").write_bytes(b"\n".join(map(os.fsencode, names)))
    items = find_inputs(file_with_video_paths="list.txt")["video"]
    assert [str(item.path) for item in items] == names
    assert len({item.name for item in items}) == len(names)
    ledger = Ledger(tmp_path / "ledger.jsonl", settings={})
    store = Store(tmp_path / "out", [])
    (todo, *_) = WorkList(items, "clip/m", {}, store, ledger, shows=True, looks=True).rounds()
    assert [str(item.path) for item in todo] == ["good.mp4", odd, "list.txt"]
    assert {entry.path: entry.status for entry in ledger.entries} == dict.fromkeys(bad, "failed")
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_bytes().splitlines()]
    assert [line["path"] for line in lines if line["event"] == "item"] == bad
    assert len(ledger.problems(limit=2)) == 3


@pytest.mark.parametrize("paths", [["a\0b.mp4"], ["y" * 300], "d/" * 3000])
def test_the_same_on_the_command_line(paths: list[str] | str) -> None:
    for key in ("video_paths", "image_paths"):
        (item,) = find_inputs(**{key: paths})[key.partition("_")[0]]  # type: ignore[arg-type]
        with pytest.raises(OSError, match=r"too long|no name"):
            check_plain(item.path)


@pytest.mark.parametrize("wrong", [["a", ["b"]], {"a": 1}, 5, True, "", " "])
@pytest.mark.parametrize("key", ["file_with_video_paths", "file_with_image_paths", "image_dir", "annotations"])
def test_a_key_that_takes_one_name_takes_nothing_else(key: str, wrong: object) -> None:
    with pytest.raises(UserError, match=f"^{key}=.*expected the name"):
        find_inputs(**{key: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [["a", ["b"]], {"a": 1}, 5, [None]])
def test_a_key_that_takes_names_takes_nothing_else(wrong: object) -> None:
    with pytest.raises(UserError, match=r"^video_paths=.*expected a path"):
        find_inputs(video_paths=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["a*\0", "[x\0]", "y" * 300 + "*", "*/" * 200])
def test_a_pattern_that_fits_no_name(pattern: str) -> None:
    with pytest.raises(UserError, match="found by this pattern"):
        find_inputs(video_paths=pattern)
    assert len(find_inputs(video_paths="*/" * 3000)["video"]) == 1


def test_a_whole_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    assert read_plain(tmp_path / "x") == b"1"
