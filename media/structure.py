"""What the structure of a file tells of its end: lengths that enclose the media, and marks at the end.

Sources: those of `media.nested`; Microsoft's ASF specification; GIF89a; RFC 3533 (Ogg); PNG, 5.3; ISO/IEC 13818-1
(packets of 188 bytes); the SWF and FLV file formats, version 10.
"""

import io
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import av

from media.nested import FAR, ByteFile, State, boxes, matroska, riff

_TAIL_BYTES = 1 << 22
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def gif_ends_early(data: bytes) -> bool:
    """Whether a GIF lacks the mark at its end."""
    return _gif(ByteFile(io.BytesIO(data), len(data)), closely=True) == "torn"


def state_of(path: Path, container: str, last: av.Packet | None, *, closely: bool) -> State:
    """`closely` also goes from part to part of Matroska, AVI and FLV (a millionth of a second for each packet).

    `container` is FFmpeg's name, `last` the last packet of the file.
    """
    look = _LOOKS.get(container)
    last_end = None if last is None or last.pos is None else last.pos + last.size
    try:
        with path.open("rb") as opened:
            file = ByteFile(opened, os.fstat(opened.fileno()).st_size)
            state = look(file, closely) if look else "unknown"
            if container == "yuv4mpegpipe" and last_end is not None and file.read(last_end, 5) == b"FRAME":
                return "torn"  # one more begins
    except (OSError, zlib.error):
        return "unknown"
    if state == "whole" and last_end is not None and file.size - last_end > FAR * file.size:
        return "unknown"  # not all was found
    if state == "unknown" and last is not None and last.is_corrupt and container not in ("mpegts", "mpeg"):
        return "torn"  # FFmpeg got less of the last packet than it should have
    return state


def _gif(file: ByteFile, closely: bool) -> State:
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


def _png(file: ByteFile, closely: bool) -> State:
    at = 8
    while at + 12 <= file.size:
        if file.read(at + 4, 4) == b"IEND":
            return "whole"
        at += 12 + file.number(at, 4, "big")
    return "torn"


def _swf(file: ByteFile, closely: bool) -> State:
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


def _asf(file: ByteFile, closely: bool) -> State:
    at = (head := file.read(0, 1 << 16)).find(_ASF_PROPERTIES)
    if at < 0 or int.from_bytes(head[at + 88 : at + 92], "little") & 1:  # a broadcast
        return "unknown"
    return "torn" if int.from_bytes(head[at + 40 : at + 48], "little") > file.size else "unknown"


def _flv(file: ByteFile, closely: bool) -> State:
    at = file.number(5, 4, "big") + 4
    while closely and at + 11 <= file.size:
        if file.read(at, 1) not in (b"\x08", b"\x09", b"\x12"):
            return "unknown"
        at += 15 + file.number(at + 1, 3, "big")
    return "torn" if closely and at > file.size else "unknown"


def _ogg(file: ByteFile, closely: bool) -> State:
    """The last page is complete and marked as such. Of pages lost before it, the time that stands in it tells."""
    tail = file.read(max(0, file.size - (1 << 17)), 1 << 17)  # a page has 65,307 bytes at most
    page = tail[tail.rfind(b"OggS") :]
    if not page.startswith(b"OggS") or len(page) < 27:
        return "torn"
    length = 27 + page[26] + sum(page[27 : 27 + page[26]])
    return "unknown" if len(page) >= length and page[5] & 4 else "torn"


def _transport(file: ByteFile, closely: bool) -> State:
    """Packets of 188 bytes, or with a time or a checksum beside each."""
    head = file.read(0, 1024)
    for first, length in ((0, 188), (4, 192), (0, 204)):
        if head[first::length][:5] == b"G" * 5:
            rest = file.size % length
            return "torn" if rest > first and file.read(file.size - rest + first, 1) == b"G" else "unknown"
    return "unknown"


def _program(file: ByteFile, closely: bool) -> State:
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


def _dv(file: ByteFile, closely: bool) -> State:
    frame_bytes = 144_000 if file.number(3, 1, "big") & 0x80 else 120_000  # at 25 or 30 a second
    rest = file.size % frame_bytes
    return "torn" if rest and file.read(file.size - rest, 3) == file.read(0, 3) else "unknown"


def _pictures(file: ByteFile, closely: bool) -> State:
    """JPEG after JPEG: the last one that begins also ends."""
    tail = file.read(max(0, file.size - _TAIL_BYTES), _TAIL_BYTES)
    return "torn" if tail.rfind(b"\xff\xd8\xff") > tail.rfind(b"\xff\xd9") else "unknown"


_LOOKS: dict[str, Callable[[ByteFile, bool], State]] = {  # by FFmpeg's name of the container
    "mov,mp4,m4a,3gp,3g2,mj2": boxes,
    "matroska,webm": matroska,
    "avi": riff,
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
