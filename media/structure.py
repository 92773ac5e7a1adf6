"""What the structure of a file tells of its end: lengths that enclose the media, and marks at the end.

Sources: ISO/IEC 14496-12, 4.2 (boxes); RFC 9559 (Matroska); Microsoft's RIFF and ASF specifications; GIF89a; RFC 3533
(Ogg); PNG, 5.3; ISO/IEC 13818-1 (packets of 188 bytes); the SWF and FLV file formats, version 10.
"""

import io
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import av

# `torn`: media are missing for certain. `cut`: bytes are missing, the header's duration tells whether media are.
# `whole`: everything stands in its place up to a definite end.
State = Literal["whole", "torn", "cut", "unknown"]

_TAIL_BYTES = 1 << 22
_FAR = 1 / 8  # of a file, that no index and no padding takes up
_MATROSKA_SEGMENT, _MATROSKA_CLUSTER = 0x18538067, 0x1F43B675
_MATROSKA_PARTS = {  # of a segment, then of a cluster
    *(0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367),
    *(0xE7, 0xA3, 0xA0, 0xA7, 0xAB, 0xAF, 0x5854, 0xEC, 0xBF),
}
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def gif_ends_early(data: bytes) -> bool:
    """Whether a GIF lacks the mark at its end."""
    return _gif(_File(io.BytesIO(data), len(data)), closely=True) == "torn"


def state_of(path: Path, container: str, last: av.Packet | None, *, closely: bool) -> State:
    """`closely` also goes from part to part of Matroska, AVI and FLV (a millionth of a second for each packet).

    `container` is FFmpeg's name, `last` the last packet of the file.
    """
    look = _LOOKS.get(container)
    try:
        with path.open("rb") as file:
            state = look(_File(file, os.fstat(file.fileno()).st_size), closely) if look else "unknown"
            if container == "yuv4mpegpipe" and last is not None and last.pos is not None:
                file.seek(last.pos + last.size)
                state = "torn" if file.read(5) == b"FRAME" else "unknown"  # one more begins
            if state == "whole" and last is not None and last.pos is not None:
                rest = os.fstat(file.fileno()).st_size - last.pos - last.size
                state = "unknown" if rest > _FAR * os.fstat(file.fileno()).st_size else state  # not all was found
    except (OSError, zlib.error):
        return "unknown"
    if state == "unknown" and last is not None and last.is_corrupt and container not in ("mpegts", "mpeg"):
        return "torn"  # FFmpeg got less of the last packet than it should have
    return state


@dataclass(frozen=True)
class _File:
    file: BinaryIO
    size: int

    def read(self, at: int, length: int) -> bytes:
        """Fewer bytes at the end of the file."""
        self.file.seek(at)
        return self.file.read(length)

    def number(self, at: int, length: int, order: Literal["big", "little"]) -> int:
        return int.from_bytes(self.read(at, length), order)


def _boxes(file: _File, closely: bool) -> State:
    """MP4. A fragment is complete in itself, and a file may be a part of a presentation: that is whole."""
    at, fragments = 0, False
    while at + 8 <= file.size:
        length, kind = file.number(at, 4, "big"), file.read(at + 4, 4)
        if length == 1:
            length = file.number(at + 8, 8, "big")
        if length < 8 or not kind.strip(b"\xa9 ").isalnum():  # to the end of the file, or no box
            lost = fragments and (kind == b"\0\0\0\0" or file.size - at > file.size * _FAR)
            return "torn" if lost else "unknown"
        fragments |= kind == b"moof"
        at += length
    if at > file.size:
        return "torn" if fragments else "cut"
    return "whole" if fragments and at == file.size else "unknown"


def _matroska(file: _File, closely: bool) -> State:
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


def _element(file: _File, at: int) -> tuple[int, int, int | None] | None:
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


def _riff(file: _File, closely: bool) -> State:
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


def _chunks_follow(file: _File, end: int) -> bool:
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


def _gif(file: _File, closely: bool) -> State:
    """Blocks up to the trailer."""
    flags = file.number(10, 1, "little")
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while kind := file.read(at, 1):
        if kind == b";":
            return "whole"
        if kind == b",":
            flags = file.number(at + 9, 1, "little")
            at += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)  # with the size of its codes
        elif kind == b"!":
            at += 2
        else:
            break
        while length := file.number(at, 1, "little"):
            at += 1 + length
        at += 1
    return "torn"


def _png(file: _File, closely: bool) -> State:
    at = 8
    while at + 12 <= file.size:
        if file.read(at + 4, 4) == b"IEND":
            return "whole"
        at += 12 + file.number(at, 4, "big")
    return "torn"


def _swf(file: _File, closely: bool) -> State:
    """The header says how long the film is, where compressed: unpacked."""
    if file.read(0, 3) == b"FWS":
        return "torn" if file.size < file.number(4, 4, "little") else "unknown"
    unpacking, at = zlib.decompressobj(), 8
    while file.read(0, 3) == b"CWS" and not unpacking.eof:
        if not (packed := file.read(at, 1 << 16)):
            return "torn"
        at += len(packed)
        while packed and not unpacking.eof:
            unpacking.decompress(packed, 1 << 20)
            packed = unpacking.unconsumed_tail
    return "unknown"


def _asf(file: _File, closely: bool) -> State:
    at = (head := file.read(0, 1 << 16)).find(_ASF_PROPERTIES)
    if at < 0 or int.from_bytes(head[at + 88 : at + 92], "little") & 1:  # a broadcast
        return "unknown"
    return "torn" if int.from_bytes(head[at + 40 : at + 48], "little") > file.size else "unknown"


def _flv(file: _File, closely: bool) -> State:
    at = file.number(5, 4, "big") + 4
    while closely and at + 11 <= file.size:
        if file.read(at, 1) not in (b"\x08", b"\x09", b"\x12"):
            return "unknown"
        at += 15 + file.number(at + 1, 3, "big")
    return "torn" if closely and at > file.size else "unknown"


def _ogg(file: _File, closely: bool) -> State:
    """The last page is complete and marked as such."""
    tail = file.read(max(0, file.size - (1 << 17)), 1 << 17)  # a page has 65,307 bytes at most
    page = tail[tail.rfind(b"OggS") :]
    if not page.startswith(b"OggS") or len(page) < 27:
        return "torn"
    length = 27 + page[26] + sum(page[27 : 27 + page[26]])
    return "whole" if len(page) >= length and page[5] & 4 else "torn"


def _transport(file: _File, closely: bool) -> State:
    """Packets of 188 bytes, or with a time or a checksum beside each."""
    head = file.read(0, 1024)
    for first, length in ((0, 188), (4, 192), (0, 204)):
        if head[first::length][:5] == b"G" * 5:
            rest = file.size % length
            return "torn" if rest > first and file.read(file.size - rest + first, 1) == b"G" else "unknown"
    return "unknown"


def _program(file: _File, closely: bool) -> State:
    """MPEG-PS: from a pack near the end, packet upon packet. Only what is cut within one of them tells."""
    start = max(0, file.size - (1 << 18))
    at = start + file.read(start, 1 << 17).find(b"\0\0\1\xba")
    while at >= start and file.read(at, 3) == b"\0\0\1":
        head = file.read(at, 14)
        if head[3:4] == b"\xba":
            at += 14 + (head[-1] & 7) if head[4:5] > b"\x3f" else 12  # MPEG-2 or MPEG-1
        else:
            at += 4 if head[3:4] == b"\xb9" else 6 + int.from_bytes(head[4:6], "big")
    return "torn" if at > file.size else "unknown"


def _dv(file: _File, closely: bool) -> State:
    frame_bytes = 144_000 if file.number(3, 1, "big") & 0x80 else 120_000  # at 25 or 30 a second
    rest = file.size % frame_bytes
    return "torn" if rest and file.read(file.size - rest, 3) == file.read(0, 3) else "unknown"


def _pictures(file: _File, closely: bool) -> State:
    """JPEG after JPEG: the last one that begins also ends."""
    tail = file.read(max(0, file.size - _TAIL_BYTES), _TAIL_BYTES)
    return "torn" if tail.rfind(b"\xff\xd8\xff") > tail.rfind(b"\xff\xd9") else "unknown"


_LOOKS: dict[str, Callable[[_File, bool], State]] = {  # by FFmpeg's name of the container
    "mov,mp4,m4a,3gp,3g2,mj2": _boxes,
    "matroska,webm": _matroska,
    "avi": _riff,
    "gif": _gif,
    "apng": _png,
    "swf": _swf,
    "asf": _asf,
    "flv": _flv,
    "ogg": _ogg,
    "mpegts": _transport,
    "mpeg": _program,
    "dv": _dv,
    "mjpeg": _pictures,
    "jpeg_pipe": _pictures,
}
