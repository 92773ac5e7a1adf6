"""Containers of parts within parts, each with its length in front: whether these lengths lead to the end of the file.

Sources: ISO/IEC 14496-12, 4.2 (boxes); RFC 9559 (Matroska); Microsoft's RIFF specification.
"""

from dataclasses import dataclass
from typing import BinaryIO, Literal

# `torn`: media are missing for certain. `cut`: bytes are missing, the header's duration tells whether media are.
# `whole`: everything stands in its place up to a definite end.
State = Literal["whole", "torn", "cut", "unknown"]

FAR = 1 / 8  # of a file, that no index and no padding takes up
_MATROSKA_SEGMENT, _MATROSKA_CLUSTER = 0x18538067, 0x1F43B675
_MATROSKA_PARTS = {  # of a segment, then of a cluster
    *(0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367),
    *(0xE7, 0xA3, 0xA0, 0xA7, 0xAB, 0xAF, 0x5854, 0xEC, 0xBF),
}


@dataclass(frozen=True)
class ByteFile:
    """An open file and its size in bytes."""

    file: BinaryIO
    size: int

    def read(self, at: int, length: int) -> bytes:
        """Fewer bytes at the end of the file."""
        self.file.seek(at)
        return self.file.read(length)

    def number(self, at: int, length: int, order: Literal["big", "little"]) -> int:
        return int.from_bytes(self.read(at, length), order)


def boxes(file: ByteFile, closely: bool) -> State:
    """MP4. A fragment is complete in itself, and a file may be a part of a presentation: that is whole."""
    at, fragments = 0, False
    while at + 8 <= file.size:
        length, kind = file.number(at, 4, "big"), file.read(at + 4, 4)
        if length == 1:
            length = file.number(at + 8, 8, "big")
        if length < 8 or not kind.strip(b"\xa9 ").isalnum():  # to the end of the file, or no box
            lost = fragments and (kind == b"\0\0\0\0" or file.size - at > file.size * FAR)
            return "torn" if lost else "unknown"
        fragments |= kind == b"moof"
        at += length
    if at > file.size:
        return "torn" if fragments else "cut"
    return "whole" if fragments and at == file.size else "unknown"


def matroska(file: ByteFile, closely: bool) -> State:
    at = 0
    while (part := _element(file, at)) and part[0] != _MATROSKA_SEGMENT:
        if part[2] is None:
            return "unknown"
        at = part[1] + part[2]
    if part is None:
        return "unknown"
    _, at, length = part
    end = file.size if length is None else at + length
    if end > file.size:
        return "cut"
    if length is not None and not closely:
        return "unknown"
    while at < end:
        part = _element(file, at)
        if part is None or part[0] not in (*_MATROSKA_PARTS, _MATROSKA_CLUSTER):
            return "torn" if length is None else "unknown"
        if part[0] == _MATROSKA_CLUSTER:  # whose parts follow
            at = part[1]
        elif part[2] is None:
            return "unknown"
        else:
            at = part[1] + part[2]
    if length is None:
        return "torn" if at > end else "unknown"
    return "whole" if at == end else "unknown"


def _element(file: ByteFile, at: int) -> tuple[int, int, int | None] | None:
    """What it is, where its content begins and how long that is (None: unknown)."""
    head = file.read(at, 12)
    id_length = 9 - head[0].bit_length() if head else 9
    if id_length > 4 or len(head) <= id_length or not head[id_length]:
        return None
    size_length = 9 - head[id_length].bit_length()
    if len(head) < id_length + size_length:
        return None
    ones = (1 << 7 * size_length) - 1
    length = int.from_bytes(head[id_length : id_length + size_length], "big") & ones
    content = at + id_length + size_length
    return int.from_bytes(head[:id_length], "big"), content, None if length == ones else length


def riff(file: ByteFile, closely: bool) -> State:
    """AVI, also of several RIFF parts."""
    if file.read(8, 4) == b"AMV ":  # phones write no lengths
        return "unknown" if file.read(file.size - 8, 8) == b"AMV_END_" else "torn"
    at = 0
    while file.read(at, 4) == b"RIFF":
        length = file.number(at + 4, 4, "little")
        if not 4 <= length < 0xFFFFFFF0:  # never finished, or longer than the number can say
            return "unknown"
        at += 8 + length + length % 2
    if at > file.size + 1:
        return "cut"
    return "whole" if at and closely and _chunks_follow(file, at) else "unknown"


def _chunks_follow(file: ByteFile, end: int) -> bool:
    """Whether chunk comes upon chunk, also within the lists of frames."""
    at = 0
    while at < min(end, file.size):
        head = file.read(at, 12)
        if len(head) < 8 or not head[:4].strip().isalnum():
            return False
        length = int.from_bytes(head[4:8], "little")
        inside = head[:4] == b"RIFF" or (head[:4] == b"LIST" and head[8:12] in (b"movi", b"rec "))
        at += 12 if inside else 8 + length + length % 2
    return at in (end, end - 1, end + 1)
