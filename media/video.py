"""Reads one video: every frame in presentation order, with true times, RGB on demand, damage reported.

Which frames come out, their times and their pixels are those of the ffmpeg program (tests compare them).
"""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import av
from av.error import FFmpegError

from media.container import Clock, PtsOrDts, TimedFrame, open_stream, read_header, reason
from media.ending import Found, Reach, promises, verdict
from media.limits import DEFAULT_LIMITS, Limits
from media.packets import Extent, PacketTable, holds_frame, scan
from media.rgb import RgbConverter, turn_of
from media.sparse import (
    NotAsAnnouncedError,
    Retime,
    SparseRows,
    announced,
    frame_of_row,
    pictures_of,
    start_before,
)
from utils.errors import MediaError
from utils.heartbeat import beat
from utils.types import Row, VideoInfo

OnDamage = Literal["raise", "keep"]
_FAR_APART_SECONDS = 1.5  # nearer rows leave few parts between them that no row needs


class VideoReader(AbstractContextManager["VideoReader"]):
    """`with VideoReader(path) as video: for frame in video.frames(): ...`

    MediaError, in one line, for what is no video: missing, unreadable, only sound, only a cover picture, no frame.

    `warnings` (time stamps that restart, a header that says too much ...) and `damage` (parts that did not decode, a
    file that ends early: `media.ending` says which files tell) fill up while `frames` is read. `on_damage="raise"` ends
    reading at the first damage with a MediaError; `"keep"` goes on with whatever decodes, as the ffmpeg program does,
    on one thread, because what a decoder makes of broken data depends on its number of threads. `limits` is what the
    file may ask for. Belongs to one thread at a time (frames may be converted on others).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        on_damage: OnDamage = "raise",
        threads: int = 0,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """`threads`: of the decoder, 0 = one per core."""
        self.path = Path(path)
        self.warnings: list[str] = []
        self.damage: list[str] = []
        self._on_damage = on_damage
        self._limits = limits
        self._threads = 1 if on_damage == "keep" else threads
        self._extent: Extent | None = None
        self._container, self._stream = open_stream(self.path, limits)
        try:
            self._stream.thread_type = "AUTO"
            self._stream.codec_context.thread_count = self._threads
            self._header = read_header(self._container, self._stream)
            self._clock = Clock(self._header)
            self._reach = Reach(self._header.last_tick)
            self._end_pts = 0  # where the frames so far end, in raw ticks
            self._end_seconds = Fraction(0)  # of the last frame, from the first
            self._pictures = self._decode()
            self._first = next(self._pictures, None)
            if self._first is None:
                raise MediaError(f"{self.path}: no frame could be decoded{self._why_none()}")
            if lost_seconds := self._reach.lost_before(self._first):
                self._damaged(f"the first {float(lost_seconds):.2f} s did not decode")
            self._convert = RgbConverter()
            self.info = self._read_info(self._first)
        except BaseException:
            self._container.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._pictures.close()
        self._container.close()

    def frames(self, *, skip: int = 0) -> Iterator[TimedFrame]:
        """All frames, once, holding none of them. MediaError on damage, unless it is to be kept.

        Of the first `skip`, only the times are of interest: where the packets tell them for certain, decoding begins
        as late as that allows, and these frames have no pictures.
        """
        if self._first is None:
            raise RuntimeError(f"{self.path}: frames() can be read once; open the video again")
        self._check_amount(self._header.num_frames or 0, lambda extent: extent.num_frames)
        if skip and (table := self._certain_table()) is not None:
            yield from self._begin_before(min(skip, len(table.pts) - 1), table)
        picture, self._first = self._first, None
        believed = PtsOrDts()
        while picture is not None:
            restarts = len(self._clock.restarts)
            pts = believed.best(picture.pts, picture.dts)
            frame = self._clock.frame(pts, picture.duration or 0, may_restart=believed.dts_fell)
            if len(self._clock.restarts) > restarts:
                at = float(frame.clock_seconds)
                self.warnings.append(f"time stamps start anew at frame {frame.index}; joined on at {at:.3f} s")
            self._end_seconds = max(self._end_seconds, frame.seconds + frame.duration_seconds)
            if picture.pts is not None:
                self._end_pts = max(self._end_pts, picture.pts + max(picture.duration or 0, 1))
            self._limits.check_hours(self.path, frame.clock_seconds + frame.duration_seconds)
            self._limits.check_rows(self.path, self._clock.num_frames)
            frame.picture = partial(self._convert, picture)
            yield frame
            picture = next(self._pictures, None)
        self._check_end(max(self._end_seconds, self._clock.joined_seconds), self._clock.num_frames, self._reach)

    def rows(self, retime: Retime, *, apart_seconds: Fraction, skip: int = 0) -> Iterator[Row]:
        """`retime(self.frames())` from row `skip` on; where rows are so far apart that it pays, only what they show is
        decoded.

        `retime` selects frames by their times; it may be called twice. Damage is noticed in what is decoded.
        """
        seconds = self._header.duration_seconds
        expected = None if seconds is None else seconds / apart_seconds
        self._check_amount(expected, lambda extent: extent.duration_seconds / apart_seconds)
        num_rows, undecoded = skip, 0
        if sparse := self._sparse(retime, skip) if apart_seconds >= _FAR_APART_SECONDS else None:
            try:
                for row in self._decoded(sparse):
                    yield row
                    num_rows += 1
                return
            except NotAsAnnouncedError:  # so far all is well
                pass
        elif skip and (table := self._certain_table()) is not None:
            undecoded = frame_of_row(skip, table, retime, Clock(self._header))
        for number, row in enumerate(retime(self.frames(skip=undecoded))):
            if number >= num_rows:
                self._limits.check_rows(self.path, number + 1)
                yield row

    def _check_amount(self, num_rows: Fraction | int | None, rows_of: Callable[[Extent], Fraction | int]) -> None:
        """MediaError before anything is decoded, where the packets confirm what a header says that is too much.

        `num_rows` is None where the header does not tell; `rows_of` tells it by the packets.
        """
        if num_rows is None or self._limits.are_passed_by(self._header.duration_seconds or Fraction(0), num_rows):
            self._limits.check_rows(self.path, int(rows_of(self.extent())))

    def extent(self) -> Extent:
        """`scan` of this file, done when first asked for; MediaError if it is too long."""
        if self._extent is None:
            self._extent = scan(self.path, self._limits)
            self._limits.check_hours(self.path, self._extent.duration_seconds)
        return self._extent

    def _decode(self, first: int = 0) -> Generator[av.VideoFrame, None, None]:
        """Frames from packet `first` on, as the decoder yields them; what does not decode is noted and passed over."""
        packets = self._reach.packets(self._container, self._stream)
        num_flagged, num_packets, last_pts = 0, 0, None
        while True:
            try:
                beat()
                packet = next(packets, None)
            except (FFmpegError, OSError) as error:  # the container itself is broken here: nothing follows
                self._damaged(reason(error))
                break
            if packet is None:
                break
            num_flagged += packet.is_corrupt
            if packet.pts is not None and not packet.is_discard:
                last_pts = max(packet.pts, packet.pts if last_pts is None else last_pts)
            num_packets += holds_frame(packet)
            if first and num_packets <= first:
                continue
            try:
                pictures = packet.decode()
            except FFmpegError as error:
                self._damaged(reason(error))
                continue
            for picture in pictures:
                if picture.is_corrupt:
                    self._damaged("the decoder marks a frame as corrupt")
                yield picture
        if num_flagged:
            self.warnings.append(f"{num_flagged} packets marked as incomplete by the container")
        # On several threads PyAV swallows an error among the very last packets, and the frames behind it.
        if last_pts is not None and self._clock.num_frames and last_pts >= self._end_pts and not self.damage:
            self._damaged("the last packets did not decode")

    def _why_none(self) -> str:
        because = f" ({self.damage[0].partition('(')[2].removesuffix(')')})" if self.damage else ""
        if not self._stream.codec_context.width:
            most = f"max_frame_megapixels={self._limits.max_frame_megapixels:g}"
            return f"{because}; frames have no size here, or more pixels than {most} allows"
        return f"{because}; is the file complete?"

    def _damaged(self, reason: str) -> None:
        num_frames = self._clock.num_frames
        where = f"damaged at {float(self._end_seconds):.2f} s after {num_frames} frames ({reason})"
        self.damage.append(where)
        if self._on_damage == "raise" and num_frames:
            raise MediaError(f"{self.path}: {where}; on_error=partial keeps the frames that decode")

    def _read_info(self, first: av.VideoFrame) -> VideoInfo:
        turn = turn_of(first)
        if turn is None:
            self.warnings.append(f"asks to be turned by {first.rotation} degrees: only multiples of 90 are applied")
        self._convert.turn = turn or ()
        sides = first.width, first.height
        if any(name == "transpose" for name, _ in self._convert.turn):
            sides = first.height, first.width
        header = self._header
        return VideoInfo(
            container=self._container.format.name,
            codec=self._stream.codec_context.name,
            pixel_format=first.format.name,
            width_px=sides[0],
            height_px=sides[1],
            fps=float(header.rate),
            start_seconds=float(header.start_seconds),
            duration_seconds=None if header.duration_seconds is None else float(header.duration_seconds),
            num_frames=header.num_frames,
            rotation_degrees=first.rotation % 360 if turn else 0,
            sample_aspect_ratio=self._stream.sample_aspect_ratio or Fraction(1),
        )

    def _certain_table(self) -> PacketTable | None:
        return None if self._on_damage == "keep" else self.extent().table

    def _sparse(self, retime: Retime, skip: int) -> SparseRows | None:
        table = self._certain_table()
        return table and SparseRows.of(table, retime, Clock(self._header), skip=skip)

    def _begin_before(self, frame: int, table: PacketTable) -> Iterator[TimedFrame]:
        """Decode anew from the last packet that this allows; the frames before it, which have no pictures."""
        start = start_before(frame, table)
        if start:
            self._begin_at(start)
            if self._first is not None and self._first.pts == table.pts[start] and not self.damage:
                yield from islice(announced(table, self._clock), start)
            else:  # not as announced
                self.damage.clear()
                self._begin_at(0)

    def _begin_at(self, packet: int) -> None:
        self._pictures.close()
        self._container.close()
        self._container, self._stream = open_stream(self.path, self._limits)
        self._stream.thread_type = "AUTO"
        self._stream.codec_context.thread_count = self._threads
        self._reach = Reach(self._header.last_tick)
        self._pictures = self._decode(packet)
        self._first = next(self._pictures, None)

    def _decoded(self, sparse: SparseRows) -> Iterator[Row]:
        pictures = pictures_of(sparse, self.path, threads=self._threads, limits=self._limits)
        frame = None
        for row in sparse.rows:
            if frame is None or frame.index != row.frame.index:
                frame = TimedFrame.like(row.frame, partial(self._convert, next(pictures)))
            yield Row(frame, row.seconds)
        for _ in pictures:  # to the end of the part, where damage may show
            pass
        extent = self.extent()
        self._check_end(extent.duration_seconds, extent.num_frames, extent.reach)

    def _check_end(self, end_seconds: Fraction, num_frames: int, reach: Reach) -> None:
        """A download or a recording that was cut: damage; where only the header may be wrong: a warning."""
        header = self._header
        given = promises(self._container, self._stream, header, Found(end_seconds, reach, bool(self._clock.restarts)))
        lost, why = verdict(self.path, self._container.format.name, given, header.frame_seconds, reach.last)
        if not why:
            return
        found = f"{why}, found {float(end_seconds):.2f} s ({num_frames} frames)"
        if not lost:
            self.warnings.append(f"cut short: {found}")
            return
        self.damage.append(f"ends early: {found}")
        if self._on_damage == "raise":
            raise MediaError(f"{self.path}: {self.damage[-1]}; on_error=partial keeps them")
