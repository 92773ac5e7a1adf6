"""What the packets of a file tell without being decoded: how long it is, and where a decoder can begin.

In H.264 and HEVC that is at IDR pictures, as both standards call them. A container's key frame may be less: a picture
from which a decoder recovers after a while, or one with followers that look behind it. Sources: ITU-T H.264, table 7-1;
ITU-T H.265, table 7-1; ISO/IEC 14496-15 for how MP4 and Matroska store them, with their length in front of each unit.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.video.stream import VideoStream
from jaxtyping import Bool, Int64

from media.container import Clock, open_stream, read_header
from media.ending import Reach
from media.limits import DEFAULT_LIMITS, Limits
from utils.errors import MediaError
from utils.heartbeat import beat

_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # one packet a frame, with its own time stamps
_CODECS = ("h264", "hevc", "vp9")
_IDR = {"h264": (5,), "hevc": (19, 20)}  # kinds of units
_PARAMETER_SETS = {"h264": (7, 8, 13, 15), "hevc": (32, 33, 34)}


@dataclass(frozen=True)
class PacketTable:
    """The packets of a file in decoding order, one for each frame."""

    pts: Int64[np.ndarray, " n"]  # all different
    durations: Int64[np.ndarray, " n"]  # 0 where unknown
    starts: Bool[np.ndarray, " n"]  # nothing from here on looks at anything before, in decoding or in showing


@dataclass(frozen=True)
class Extent:
    """How many frames there should be, and the time from the first to the end of the last."""

    num_frames: int
    duration_seconds: Fraction
    table: PacketTable | None = None  # None where the packets do not tell for certain
    reach: Reach = field(default_factory=Reach)


def scan(path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS) -> Extent:
    """Reads all packets without decoding them (about a thousand times faster). Damaged frames are counted, too."""
    container, stream = open_stream(Path(path), limits)
    with container:
        header, notes = read_header(container, stream), _Notes.of(container.format.name, stream)
        reach = Reach(header.last_tick)
        clock = Clock(replace(header, last_tick=None))  # that is for what is shown, and this goes by dts
        first, end = None, Fraction(0)
        # Packets come in decoding order, in which only dts rises; pts says when the frame is shown.
        for pts, dts, duration in _all_with_dts(_read(reach.packets(container, stream), notes)):
            frame = clock.frame(dts, duration)
            late = pts - dts if pts is not None and dts is not None else 0
            shown = frame.clock_seconds + late * header.time_base
            first = shown if first is None else min(first, shown)
            end = max(end, shown + frame.duration_seconds)
    if first is None:
        raise MediaError(f"{path}: no frame in its video stream")
    return Extent(clock.num_frames, end - first, None if clock.restarts else notes.table(), reach)


_Times = tuple[int | None, int | None, int]  # pts, dts, duration (0 where unknown) in ticks


def _read(packets: Iterator[av.Packet], notes: "_Notes") -> Iterator[_Times]:
    while True:
        try:
            beat()
            packet = next(packets, None)
        except (FFmpegError, OSError):
            notes.usual = False
            return
        if packet is None:
            return
        if holds_frame(packet):
            notes.add(packet)
            yield packet.pts, packet.dts, packet.duration or 0
        notes.usual &= not packet.is_discard


def holds_frame(packet: av.Packet) -> bool:
    """The last one, without a size, ends the stream. Packets of a `PacketTable` are numbered among those with one."""
    return bool(packet.size) and not packet.is_discard


def _all_with_dts(packets: Iterable[_Times]) -> Iterator[_Times]:
    """Where only pts is known: with the dts of the packet before, at the beginning with the first there is."""
    waiting: list[_Times] = []
    last = None
    for pts, dts, duration in packets:
        last = last if dts is None else dts
        if last is None:  # Matroska begins so
            waiting.append((pts, None, duration))
            continue
        yield from ((early, None if early is None else last, its_duration) for early, _, its_duration in waiting)
        waiting.clear()
        yield pts, dts if pts is None else last, duration
    yield from ((pts, pts, duration) for pts, _, duration in waiting)  # a file without any


@dataclass
class CodedPictures:
    """Which packets of one stream, in decoding order, a decoder of H.264 or HEVC can begin at."""

    codec: str
    length_bytes: int  # of the number in front of each unit
    settings_stay: bool = True  # False once parameter sets were met that a decoder that jumps would miss
    _sets: list[bytes] | None = field(default=None)

    @classmethod
    def of(cls, codec: str, extradata: bytes) -> "CodedPictures | None":
        """None where units are not stored with their lengths (`extradata` is the record of ISO/IEC 14496-15)."""
        at = {"h264": 4, "hevc": 21}[codec]
        if len(extradata) <= at or extradata[0] != 1:
            return None
        return cls(codec, (extradata[at] & 3) + 1)

    def is_start(self, packet: memoryview, *, keyframe: bool) -> bool:
        """Whether this is an IDR picture."""
        idr, sets = False, []
        for unit in self._units(packet):
            kind = unit[0] & 31 if self.codec == "h264" else unit[0] >> 1 & 63
            idr |= kind in _IDR[self.codec]
            if kind in _PARAMETER_SETS[self.codec]:
                sets.append(bytes(unit))
        start = idr and keyframe
        if start:
            self._sets = sets if self._sets is None else self._sets
            self.settings_stay &= sets == self._sets
        else:
            self.settings_stay &= not sets
        return start

    def _units(self, packet: memoryview) -> Iterator[memoryview]:
        at, size = 0, self.length_bytes
        while at + size < len(packet):
            length = int.from_bytes(packet[at : at + size], "big")
            if length:
                yield packet[at + size : at + size + length]
            at += size + length


@dataclass
class _Notes:
    """Collects the table, as long as nothing unusual is met.

    Unusual is all that could make a decoder that jumps see another video than one that does not: stamps that are
    missing or do not rise, damage, parameter sets that change.
    """

    usual: bool
    pictures: CodedPictures | None
    _pts: list[int] = field(default_factory=list)
    _durations: list[int] = field(default_factory=list)
    _starts: list[bool] = field(default_factory=list)
    _last_dts: int | None = None

    @classmethod
    def of(cls, container: str, stream: VideoStream) -> "_Notes":
        codec = stream.codec_context
        # 4:4:4 as old versions of x264 wrote it is read by the note on the version in the first packet.
        usual = container in _CONTAINERS and codec.name in _CODECS and "4:4:4" not in (codec.profile or "")
        pictures = CodedPictures.of(codec.name, codec.extradata or b"") if usual and codec.name != "vp9" else None
        return cls(usual and (codec.name == "vp9" or pictures is not None), pictures)

    def add(self, packet: av.Packet) -> None:
        if not self.usual:
            return
        if packet.pts is None or packet.is_corrupt or packet.has_sidedata("new_extradata"):
            self.usual = False
            return
        start = packet.is_keyframe
        if self.pictures is not None:
            start = self.pictures.is_start(memoryview(packet), keyframe=start)  # pyright: ignore[reportArgumentType]
            self.usual = self.pictures.settings_stay
        if packet.dts is not None:  # Matroska stores none: FFmpeg guesses all but the first few
            self.usual &= self._last_dts is None or packet.dts > self._last_dts
            self._last_dts = packet.dts
        self._pts.append(packet.pts)
        self._durations.append(packet.duration or 0)
        self._starts.append(start)

    def table(self) -> PacketTable | None:
        if not self.usual or len(set(self._pts)) < len(self._pts) or not any(self._starts[:1]):
            return None
        pts = np.array(self._pts)
        latest_before = np.concatenate([pts[:1] - 1, np.maximum.accumulate(pts)[:-1]])
        earliest_from_here = np.minimum.accumulate(pts[::-1])[::-1]
        closed = (latest_before < pts) & (pts == earliest_from_here)
        return PacketTable(pts, np.array(self._durations), np.array(self._starts) & closed)
