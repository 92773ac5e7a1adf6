"""Decodes only those parts of a video that rows show.

Eight rows of a long video need not cost the decoding of all of it: `packets.scan` tells where a decoder can begin as if
nothing had been before. The frames are the same to the bit. What does not come out as the packets announced it raises
`NotAsAnnouncedError`, and has to be read from the beginning.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.video.stream import VideoStream

from media.container import Clock, TimedFrame, open_stream
from media.limits import DEFAULT_LIMITS, Limits
from media.packets import PacketTable, holds_frame
from utils.heartbeat import beat
from utils.types import Frame, Row

_WORTH_IT = 0.7  # of the packets, at most; else all are decoded, so that all damage is seen

Retime = Callable[[Iterator[Frame]], Iterator[Row]]


class NotAsAnnouncedError(Exception):
    """Something did not decode, or frames came out that the packets do not have."""


@dataclass(frozen=True)
class Part:
    """Packets `first`..`last` go to the decoder, for the sake of the packets `wanted`, in the order they are shown."""

    first: int
    last: int
    wanted: list[int]


@dataclass(frozen=True)
class SparseRows:
    """Rows whose frames tell their times only, and what has to be decoded for the pictures."""

    rows: list[Row]
    parts: list[Part]
    table: PacketTable

    @classmethod
    def of(cls, table: PacketTable, retime: Retime, clock: Clock, *, skip: int = 0) -> "SparseRows | None":
        """Without the first `skip` rows. None where nearly everything would be decoded, or there is no row."""
        rows = list(islice(retime(announced(table, clock)), skip, None))
        shown = list(dict.fromkeys(row.frame.index for row in rows))
        parts = parts_for(np.argsort(table.pts)[shown].tolist(), table)
        num_decoded = sum(part.last - part.first + 1 for part in parts)
        return cls(rows, parts, table) if rows and num_decoded <= _WORTH_IT * len(table.pts) else None


def announced(table: PacketTable, clock: Clock) -> Iterator[TimedFrame]:
    """All frames in the order they are shown; times as `VideoReader.frames` has them, and no pictures."""
    for packet in np.argsort(table.pts).tolist():
        yield clock.frame(int(table.pts[packet]), int(table.durations[packet]))


def frame_of_row(number: int, table: PacketTable, retime: Retime, clock: Clock) -> int:
    """Which frame a row shows; the last one for a row behind the last."""
    row = next(islice(retime(announced(table, clock)), number, None), None)
    return len(table.pts) - 1 if row is None else row.frame.index


def start_before(frame: int, table: PacketTable) -> int:
    """The last packet that decoding can begin at to give this frame. As many frames come before it as packets."""
    starts = np.flatnonzero(table.starts)
    return int(starts[np.searchsorted(starts, np.argsort(table.pts)[frame], side="right") - 1])


def parts_for(packets: Sequence[int], table: PacketTable) -> list[Part]:
    """For packets in the order they are shown: from the last start before each of them."""
    starts = np.flatnonzero(table.starts)
    wanted: dict[int, list[int]] = {}
    for packet in packets:
        wanted.setdefault(int(starts[np.searchsorted(starts, packet, side="right") - 1]), []).append(packet)
    return [Part(first, max(own), own) for first, own in wanted.items()]


def pictures_of(
    sparse: SparseRows, path: Path, *, threads: int, limits: Limits = DEFAULT_LIMITS
) -> Iterator[av.VideoFrame]:
    """One for each different frame of the rows, in their order. NotAsAnnouncedError at anything unexpected."""
    container, stream = open_stream(path, limits)
    with container:
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        packets = enumerate(filter(holds_frame, container.demux(stream)))
        try:
            for part in sparse.parts:
                yield from _only(sparse.table.pts[part.wanted].tolist(), _decode_part(part, packets, stream))
        except (FFmpegError, OSError, IndexError) as error:  # the last: a stream that turned up on the way
            raise NotAsAnnouncedError from error


def _decode_part(part: Part, packets: Iterator[tuple[int, av.Packet]], stream: VideoStream) -> Iterator[av.VideoFrame]:
    for number, packet in packets:
        beat()
        if number >= part.first:
            yield from packet.decode()
        if number == part.last:
            break
    yield from stream.codec_context.decode(None)
    stream.codec_context.flush_buffers()


def _only(wanted: Sequence[int], pictures: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Those with the wanted pts; NotAsAnnouncedError unless all come, whole and in order."""
    due, last_pts = deque(wanted), None
    for picture in pictures:
        if picture.is_corrupt or picture.pts is None or (last_pts is not None and picture.pts <= last_pts):
            raise NotAsAnnouncedError
        last_pts = picture.pts
        if due and picture.pts == due[0]:
            due.popleft()
            yield picture
    if due:
        raise NotAsAnnouncedError
