"""Damage to files, drawn from a random generator: blind (bits, cuts, blocks) and along the pieces that a format has.

A piece is a box of MP4, an element of EBML, a chunk of RIFF or PNG, a block of GIF: where its header starts, where its
content starts, and where it ends. Parsers here are lenient and short: what they do not understand is no piece.
"""

import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE, 0x10000)


@dataclass(frozen=True)
class Piece:
    start: int
    content: int
    end: int


def mutate(data: bytes, rng: random.Random, others: list[bytes]) -> tuple[bytes, str]:
    """Damaged `data` and how: one to four wounds; `others` are files to splice in."""
    names = []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        pieces = find_pieces(data)
        if pieces and rng.random() < 0.5:
            wound: Callable[..., bytes] = rng.choice(STRUCTURED)
            data = wound(data, rng, pieces)
        else:
            wound = rng.choice(BLIND)
            data = wound(data, rng, others)
        names.append(wound.__name__)
    return data, "+".join(names)


def bit_flips(data: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    """A few, or one in a thousand bytes; half of the time in the first or last 512 bytes, where headers lie."""
    changed = bytearray(data)
    count = rng.choice((1, 2, 4, 16, max(1, len(data) // 1000)))
    for _each in range(count if data else 0):
        changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def extreme_numbers(data: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    for _each in range(rng.choice((1, 1, 3))):
        at, size = _place(data, rng), rng.choice((1, 2, 4, 4, 8))
        data = data[:at] + _number(rng, size) + data[at + size :]
    return data


def cut_end(data: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    return data[: int(len(data) * rng.random())]


def cut_start(data: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    return data[rng.randrange(1, max(2, len(data) // 4)) :]


def cut_out(data: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    start, stop = _range(data, rng)
    return data[:start] + data[stop:]


def insert(data: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.randbytes(rng.choice((1, 4, 16, 1000))) + data[at:]


def zero_block(data: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    start, stop = _range(data, rng)
    return data[:start] + bytes(stop - start) + data[stop:]


def double_block(data: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    start, stop = _range(data, rng)
    return data[:stop] + data[start:stop] + data[stop:]


def splice(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """The front of one file and the back of another."""
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def drop_piece(data: bytes, rng: random.Random, pieces: list[Piece]) -> bytes:
    piece = rng.choice(pieces)
    return data[: piece.start] + data[piece.end :]


def double_piece(data: bytes, rng: random.Random, pieces: list[Piece]) -> bytes:
    piece = rng.choice(pieces)
    return data[: piece.end] + data[piece.start : piece.end] * rng.choice((1, 1, 20)) + data[piece.end :]


def swap_pieces(data: bytes, rng: random.Random, pieces: list[Piece]) -> bytes:
    one, two = sorted(rng.choices(pieces, k=2), key=lambda piece: piece.start)
    if one.end > two.start:
        return drop_piece(data, rng, [one])
    middle = data[one.end : two.start]
    return data[: one.start] + data[two.start : two.end] + middle + data[one.start : one.end] + data[two.end :]


def empty_piece(data: bytes, rng: random.Random, pieces: list[Piece]) -> bytes:
    piece = rng.choice(pieces)
    return data[: piece.content] + bytes(piece.end - piece.content) + data[piece.end :]


def number_in_piece(data: bytes, rng: random.Random, pieces: list[Piece]) -> bytes:
    """Another number in the header or the first 64 bytes; checksums of PNG are mended, so that it is looked at."""
    piece = rng.choice(pieces)
    size = rng.choice((1, 2, 4, 4))
    first = piece.start if rng.random() < 0.3 else piece.content
    at = rng.randrange(first, max(first + 1, min(piece.end, piece.content + 64)))
    data = data[:at] + _number(rng, size) + data[at + size :]
    if data[:4] == b"\x89PNG" and piece.end <= len(data):
        crc = struct.pack(">I", zlib.crc32(data[piece.start + 4 : piece.end - 4]))
        data = data[: piece.end - 4] + crc + data[piece.end :]
    return data


BLIND = (bit_flips, bit_flips, extreme_numbers, cut_end, cut_start, cut_out, insert, zero_block, double_block, splice)
STRUCTURED = (number_in_piece, number_in_piece, number_in_piece, drop_piece, double_piece, swap_pieces, empty_piece)


def find_pieces(data: bytes) -> list[Piece]:
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"jP  ", b"styp"):
        return _boxes(data, 0, len(data))
    if data[:4] == b"\x1aE\xdf\xa3":
        return _ebml(data, 0, len(data))
    if data[:4] == b"RIFF":
        return _riff(data, 12, len(data))
    if data[:4] == b"\x89PNG":
        return _png(data)
    return _gif(data) if data[:3] == b"GIF" else []


def _boxes(data: bytes, at: int, end: int, depth: int = 0) -> list[Piece]:
    """MP4, MOV, AVIF, JPEG 2000: 4 bytes of size, 4 of kind."""
    found = []
    while at + 8 <= end and len(found) < 300:
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        stop = min(at + size, end) if size >= 8 else end
        skipped = {b"stsd": 8, b"meta": 4, b"avc1": 78}.get(kind, 0)
        found.append(Piece(at, at + 8, stop))
        if depth < 8 and kind in (
            *(b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"mvex", b"stsd", b"meta"),
            *(b"iprp", b"ipco", b"avc1", b"jp2h"),
        ):
            found += _boxes(data, at + 8 + skipped, stop, depth + 1)
        at = stop
    return found


_MASTERS = {0x1A45DFA3, 0x18538067, 0x1549A966, 0x1654AE6B, 0xAE, 0xE0, 0x1F43B675, 0xA0, 0x1C53BB6B, 0xBB, 0x114D9B74}


def _ebml(data: bytes, at: int, end: int, depth: int = 0) -> list[Piece]:
    """Matroska, WebM: id and size have as many bytes as their first byte has zeros in front, and one."""
    found = []
    while at < end and len(found) < 300:
        id_size = 9 - data[at].bit_length()
        if id_size > 4 or at + id_size >= end:
            break
        size_at = at + id_size
        size_size = 9 - data[size_at].bit_length()
        if size_size > 8:
            break
        identity = int.from_bytes(data[at:size_at])
        size = int.from_bytes(data[size_at : size_at + size_size]) & ((1 << 7 * size_size) - 1)
        content = size_at + size_size
        stop = min(content + size, end)
        found.append(Piece(at, content, stop))
        if identity in _MASTERS and depth < 6:
            found += _ebml(data, content, stop, depth + 1)
        at = stop
    return found


def _riff(data: bytes, at: int, end: int, depth: int = 0) -> list[Piece]:
    """AVI, WebP: 4 bytes of kind, 4 of size, an even number of content."""
    found = []
    while at + 8 <= end and len(found) < 300:
        kind, size = struct.unpack("<4sI", data[at : at + 8])
        stop = min(at + 8 + size + size % 2, end)
        found.append(Piece(at, at + 8, stop))
        if kind in (b"LIST", b"RIFF") and depth < 4:
            found += _riff(data, at + 12, stop, depth + 1)
        at = stop
    return found


def _png(data: bytes) -> list[Piece]:
    found, at = [], 8
    while at + 12 <= len(data):
        stop = at + 12 + int.from_bytes(data[at : at + 4])
        if stop > len(data):
            break
        found.append(Piece(at, at + 8, stop))
        at = stop
    return found


def _gif(data: bytes) -> list[Piece]:
    """The header, and every extension or image with its sub-blocks."""
    if len(data) < 14:
        return []
    at = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    found = [Piece(0, 6, at)]
    while at + 11 < len(data) and data[at] in (0x21, 0x2C):
        if data[at] == 0x21:
            stop = at + 2
        else:
            stop = at + 11 + (3 << ((data[at + 9] & 7) + 1) if data[at + 9] & 0x80 else 0)
        while stop < len(data) and data[stop]:
            stop += data[stop] + 1
        found.append(Piece(at, at + 1, min(stop + 1, len(data))))
        at = stop + 1
    return found


def _place(data: bytes, rng: random.Random) -> int:
    near = rng.random()
    if near < 0.35:
        return rng.randrange(min(len(data), 512) or 1)
    return rng.randrange(max(0, len(data) - 512), len(data) or 1) if near < 0.5 else rng.randrange(len(data) or 1)


def _range(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = _place(data, rng)
    return start, min(len(data), start + rng.choice((1, 16, 188, 1024, max(1, len(data) // 8))))


def _number(rng: random.Random, size: int) -> bytes:
    value = rng.choice(EXTREMES) if rng.random() < 0.6 else rng.getrandbits(32)
    return (value & ((1 << 8 * size) - 1)).to_bytes(size, rng.choice(("big", "little")))


def case(files: list[tuple[Path, bytes]], seed: int, number: int) -> tuple[Path, bytes, str]:
    """Case `number` of a series: the file it comes from, what became of it, and how. The same on every machine.

    Negative numbers are whole files: the first is case -1.
    """
    if number < 0:
        return *files[-number - 1], "intact"
    rng = random.Random(f"{seed}:{number}")
    path, data = files[rng.randrange(len(files))]
    kin = [other for place, other in files if place.suffix == path.suffix]
    return path, *mutate(data, rng, kin if rng.random() < 0.7 else [other for _, other in files])
