"""Text files as other programs leave them: UTF-8 or UTF-16, and what only looks like one."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from utils.plain_files import check_plain

UTF_16 = b"\xff\xfe", b"\xfe\xff"  # what PowerShell's ">" writes first
_HEAD_BYTES = 1 << 16
_CONTROL = frozenset(map(chr, range(32))) - set("\t\n\r\x0c\x1b")


def read_text(path: str | os.PathLike[str]) -> str:
    """A whole file. OSError where it cannot be read, ValueError with one line where it is no text."""
    with open_plain(path) as file:
        head = file.read(_HEAD_BYTES)
        if not head.startswith(UTF_16) and b"\0" in head:
            raise ValueError(_without_mark(head))
        data = head + file.read()
    return data.decode("utf-16" if data.startswith(UTF_16) else "utf-8-sig")


def read_lines(path: str | os.PathLike[str], *, longest: int) -> Iterator[str]:
    """The lines of a list, without their ends; of longer ones the beginning. As they come: such files can be huge.

    Bytes that are not UTF-8 stay what they are (`surrogateescape`): any are a valid file name on Linux. Raises as
    `read_text`; a few lines with control characters do not make a file a binary one.
    """
    with open_plain(path) as file:
        head = file.read(_HEAD_BYTES)
        encoding, errors = ("utf-16", "replace") if head.startswith(UTF_16) else ("utf-8-sig", "surrogateescape")
        _check_head(head, encoding, errors)
    with open(path, encoding=encoding, errors=errors, newline="\n") as text:  # else \r and \x0b would end lines as well
        while line := text.readline(longest + 1):
            rest = line
            while len(rest) > longest and not rest.endswith("\n"):
                rest = text.readline(longest + 1)
            yield line.removesuffix("\n").removesuffix("\r")[:longest]


def open_plain(path: str | os.PathLike[str]) -> BinaryIO:
    check_plain(path)
    return Path(path).open("rb")


def _check_head(head: bytes, encoding: str, errors: str) -> None:
    lines = [line for line in head.decode(encoding, errors).split("\n") if line]
    if 2 * sum(not _CONTROL.isdisjoint(line) for line in lines) > len(lines):
        raise ValueError(_without_mark(head))


def _without_mark(head: bytes) -> str:
    """What a file with control characters most likely is."""
    few, many = sorted(head[start::2].count(0) for start in (0, 1))
    if len(head) > 3 and few == 0 and many > 0.2 * len(head):
        return "UTF-16 without a byte order mark; save it as UTF-8"
    return "holds control characters: a binary file; expected a text file"
