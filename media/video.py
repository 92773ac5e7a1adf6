"""Reads one video: every frame in presentation order, with true times, RGB on demand, damage reported.

Which frames come out, their times and their pixels are those of the ffmpeg program (tests compare them).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import av
import numpy as np
from av.error import FFmpegError

from media.clock import PtsOrDts
from media.facts import header_facts, last_tick, usual_frame_seconds
from media.opening import new_clock, open_stream, reason
from media.packets import Extent, scan
from media.rgb import RgbConverter, display_matrix, is_right_angle, swaps_sides, turn_filters
from media.sparse import NotAsAnnouncedError, Plan, Retime, pictures_of
from utils.errors import MediaError
from utils.types import Row, VideoInfo

OnDamage = Literal["raise", "keep"]
_FAR_APART_SECONDS = 1.5  # nearer rows leave few parts between them that no row needs


@dataclass(slots=True, eq=False)
class DecodedFrame:
    """A `utils.types.Frame`. The decoded picture is given up for its RGB once that has been asked for."""

    index: int
    seconds: Fraction
    clock_seconds: Fraction
    duration_seconds: Fraction
    _picture: av.VideoFrame | None
    _convert: RgbConverter
    _rgb: np.ndarray | None = field(default=None, repr=False)

    def to_rgb(self) -> np.ndarray:
        """uint8 (h, w, 3), 0..255, turned as displayed. Later calls give the same array: copy it before writing."""
        if self._rgb is None:
            assert self._picture is not None
            self._rgb = self._convert(self._picture)
            self._picture = None
        return self._rgb


class VideoReader:
    """One open video; use `open_video`. Belongs to one thread at a time (frames may be converted on others).

    `warnings` (time stamps that restart, a file cut short ...) and `damage` (parts that did not decode) fill up
    while `frames` is read. `on_damage="raise"` ends reading at the first damage with a MediaError; `"keep"` goes on
    with whatever decodes, as the ffmpeg program does, on one thread, because what a decoder makes of broken data
    depends on its number of threads.
    """

    def __init__(self, path: str | os.PathLike[str], *, on_damage: OnDamage = "raise", threads: int = 0) -> None:
        """`threads`: of the decoder, 0 = one per core. MediaError if there is no frame to be had."""
        self.path = Path(path)
        self.warnings: list[str] = []
        self.damage: list[str] = []
        self._on_damage = on_damage
        self._threads = 1 if on_damage == "keep" else threads
        self._extent: Extent | None = None
        self._container, self._stream = open_stream(self.path)
        try:
            self._stream.thread_type = "AUTO"
            self._stream.codec_context.thread_count = self._threads
            self._clock = new_clock(self._container, self._stream)
            self._last_tick = last_tick(self._container, self._stream)
            self._believed = PtsOrDts()
            self._num_decoded = 0
            self._end_pts = 0  # where the frames so far end, in raw ticks
            self._end_seconds = Fraction(0)  # of the last frame, from the first
            self._pictures = self._decode()
            self._first = next(self._pictures, None)  # its side data tells how the video is turned
            if self._first is None:
                raise MediaError(f"{self.path}: no frame could be decoded{self._because()}; is the file complete?")
            matrix = display_matrix(self._first)
            self._convert = RgbConverter(turn_filters(matrix))
            self.info = self._read_info(self._first, matrix)
        except BaseException:
            self.close()
            raise

    def frames(self) -> Iterator[DecodedFrame]:
        """All frames, once, holding none of them. MediaError on damage, unless it is to be kept."""
        if self._first is None:
            raise RuntimeError(f"{self.path}: frames() can be read once; open the video again")
        picture, self._first = self._first, None
        try:
            while picture is not None:
                yield self._stamped(picture)
                picture = next(self._pictures, None)
            self._check_length(self._end_seconds, self._num_decoded)
        finally:
            self.close()

    def rows(self, retime: Retime, *, apart_seconds: Fraction) -> Iterator[Row]:
        """`retime(self.frames())`; where rows are so far apart that it pays, only what they show is decoded.

        `retime` selects frames by their times; it may be called twice. Damage is noticed in what is decoded.
        """
        num_rows = 0
        if plan := self._plan(retime) if apart_seconds >= _FAR_APART_SECONDS else None:
            try:
                for row in self._planned(plan):
                    yield row
                    num_rows += 1
                return
            except NotAsAnnouncedError:  # so far all is well
                pass
        yield from islice(retime(self.frames()), num_rows, None)

    def extent(self) -> Extent:
        """`scan` of this file, done when first asked for."""
        if self._extent is None:
            self._extent = scan(self.path)
        return self._extent

    def close(self) -> None:
        if pictures := getattr(self, "_pictures", None):
            pictures.close()
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Frames as the decoder yields them; a packet that does not decode is noted and passed over."""
        packets = self._container.demux(self._stream)
        num_flagged, last_pts = 0, None
        while True:
            try:
                packet = next(packets, None)
            except (FFmpegError, OSError) as error:  # the container itself is broken here: nothing follows
                self._damaged(reason(error))
                break
            if packet is None:
                break
            num_flagged += packet.is_corrupt
            if packet.pts is not None and not packet.is_discard:
                last_pts = max(packet.pts, packet.pts if last_pts is None else last_pts)
            yield from self._decode_packet(packet)
        if num_flagged:
            self.warnings.append(f"{num_flagged} packets marked as incomplete by the container")
        # On several threads PyAV swallows an error among the very last packets, and the frames behind it.
        if last_pts is not None and self._num_decoded and last_pts >= self._end_pts and not self.damage:
            self._damaged("the last packets did not decode")

    def _decode_packet(self, packet: av.Packet) -> Iterator[av.VideoFrame]:
        try:
            pictures = packet.decode()
        except FFmpegError as error:
            self._damaged(reason(error))
            return
        for picture in pictures:
            if picture.is_corrupt:
                self._damaged("the decoder marks a frame as corrupt")
            yield picture

    def _damaged(self, reason: str) -> None:
        where = f"damaged at {float(self._end_seconds):.2f} s after {self._num_decoded} frames ({reason})"
        self.damage.append(where)
        if self._on_damage == "raise" and self._num_decoded:
            raise MediaError(f"{self.path}: {where}; on_error=partial keeps the frames that decode")

    def _because(self) -> str:
        return f" ({self.damage[0].partition('(')[2].removesuffix(')')})" if self.damage else ""

    def _stamped(self, picture: av.VideoFrame) -> DecodedFrame:
        restarts = len(self._clock.restarts)
        pts, duration = self._believed.best(picture.pts, picture.dts), picture.duration or 0
        if pts is not None and self._last_tick is not None and pts < self._last_tick < pts + duration:
            duration = self._last_tick - pts
        stamp = self._clock.stamp(pts, duration, may_restart=self._believed.dts_fell)
        if len(self._clock.restarts) > restarts:
            at = float(stamp.clock_seconds)
            self.warnings.append(f"time stamps start anew at frame {self._num_decoded}; joined on at {at:.3f} s")
        self._end_seconds = max(self._end_seconds, stamp.seconds + stamp.duration_seconds)
        if picture.pts is not None:
            self._end_pts = max(self._end_pts, picture.pts + max(picture.duration or 0, 1))
        index, self._num_decoded = self._num_decoded, self._num_decoded + 1
        return DecodedFrame(index, stamp.seconds, stamp.clock_seconds, stamp.duration_seconds, picture, self._convert)

    def _read_info(self, first: av.VideoFrame, matrix: tuple[int, ...]) -> VideoInfo:
        if not is_right_angle(matrix):
            self.warnings.append(f"asks to be turned by {first.rotation} degrees: only multiples of 90 are applied")
        turn = turn_filters(matrix)
        sides = (first.height, first.width) if swaps_sides(turn) else (first.width, first.height)
        return VideoInfo(
            width_px=sides[0],
            height_px=sides[1],
            rotation_degrees=first.rotation % 360 if turn else 0,
            pixel_format=first.format.name,
            **header_facts(self._container, self._stream),
        )

    def _plan(self, retime: Retime) -> Plan | None:
        if self._on_damage == "keep" or (table := self.extent().table) is None:
            return None
        return Plan.of(table, retime, new_clock(self._container, self._stream), self._last_tick)

    def _planned(self, plan: Plan) -> Iterator[Row]:
        pictures = pictures_of(plan, self.path, threads=self._threads)
        frame = None
        for row in plan.rows:
            if frame is None or frame.index != row.frame.index:
                at, picture = row.frame, next(pictures)
                times = (at.seconds, at.clock_seconds, at.duration_seconds)
                frame = DecodedFrame(at.index, *times, picture, self._convert)
            yield Row(frame, row.seconds)
        for _ in pictures:  # to the end of the part, where damage may show
            pass
        self._check_length(self.extent().duration_seconds, self.extent().num_frames)

    def _check_length(self, end_seconds: Fraction, num_frames: int) -> None:
        """A header that promises clearly more than was there: a download or a recording cut short."""
        promised = self.info.duration_seconds
        slack = max(0.2, 3 * float(usual_frame_seconds(self._container, self._stream)))
        if promised is not None and not self._clock.restarts and promised - float(end_seconds) > slack:
            found = f"{float(end_seconds):.2f} s ({num_frames} frames)"
            self.warnings.append(f"cut short: the header says {promised:.2f} s, found {found}")


def open_video(path: str | os.PathLike[str], *, on_damage: OnDamage = "raise", threads: int = 0) -> VideoReader:
    """`with open_video(path) as video: for frame in video.frames(): ...`

    MediaError, in one line, for what is no video: missing, unreadable, only sound, only a cover picture, no frame.
    """
    return VideoReader(path, on_damage=on_damage, threads=threads)
