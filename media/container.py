"""A container file: its video stream, what its header says of it, and the times of its frames as ffmpeg counts them.

What a header says can be wrong, so nothing is counted by it.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags
from av.stream import Disposition
from av.video.stream import VideoStream

from media.limits import DEFAULT_LIMITS, Limits, open_regular
from media.sampling import nearest
from utils.errors import MediaError
from utils.types import Frame

RESTART_SECONDS = Fraction(1, 10)  # going back by more means that the stamps start anew (ffmpeg's own threshold)
MICROSECOND = Fraction(1, 1_000_000)
_ANIMATIONS = ("gif", "apng", "webp")
_MP4 = "mov,mp4,m4a,3gp,3g2,mj2"


def open_stream(path: Path, limits: Limits = DEFAULT_LIMITS) -> tuple[InputContainer, VideoStream]:
    """The file, whatever its name, and its first video stream that is no cover picture; MediaError if there is none."""
    container = _open(path, limits)
    pictures = [stream for stream in container.streams.video if stream.disposition & Disposition.attached_pic]
    streams = [stream for stream in container.streams.video if stream not in pictures]
    try:
        if streams and streams[0].codec_context is not None:
            codec = streams[0].codec_context
            limits.check_frame(path, codec.width, codec.height)
            if container.format.name in _ANIMATIONS:
                limits.check_animation(path, codec.width, codec.height, streams[0].frames)
            codec.options = {"max_pixels": str(limits.padded_pixels)}  # should they grow on the way
            return container, streams[0]
        if streams:
            raise MediaError(f"{path}: the codec of its video stream is unknown to this FFmpeg")
        kinds = sorted({stream.type for stream in container.streams} - {"video"})
        found = " and ".join([*kinds, *(["a cover picture"] if pictures else [])])
        raise MediaError(f"{path}: no video stream in it, found {f'only {found}' if found else 'nothing'}")
    except MediaError:
        container.close()
        raise


def _open(path: Path, limits: Limits) -> InputContainer:
    """By its descriptor alone: FFmpeg can then open nothing else, whatever a playlist or a reference in it names."""
    file = open_regular(path, "a video file")
    options = {"fd": str(file), "protocol_whitelist": "fd", "max_pixels": str(limits.padded_pixels)}
    try:
        return av.open("fd:", options=options, metadata_errors="replace")
    except (FFmpegError, OSError, ValueError) as error:
        if _is_text(file):
            hint = "found text; is this a list for file_with_video_paths?"
            raise MediaError(f"{path}: cannot be opened as a video, {hint} Playlists are not followed") from error
        raise MediaError(f"{path}: cannot be opened as a video ({reason(error)}); is the file complete?") from error
    finally:
        os.close(file)  # FFmpeg has a copy


def _is_text(file: int) -> bool:
    os.lseek(file, 0, os.SEEK_SET)
    start = os.read(file, 1024)
    try:
        return bool(start.strip()) and not any(code < 9 for code in start) and bool(start[:1000].decode())
    except UnicodeDecodeError as error:
        return error.start > 990  # only the last letter is cut


def reason(error: Exception) -> str:
    """One line on what went wrong."""
    return str(getattr(error, "strerror", None) or error).splitlines()[0]


@dataclass(frozen=True)
class Header:
    """What a container says of its video stream.

    `last_tick` is where an MP4 says that its last frame ends, in raw ticks; None for other containers. Some writers
    give the last frame a duration of one tick. FFmpeg 5 took that as it is, FFmpeg 8 puts the usual duration in its
    place, so that the `fps` filter emits one row more. We keep to the file.
    """

    time_base: Fraction  # seconds a tick
    start_seconds: Fraction = Fraction(0)  # raw time stamp at which the file starts, that is its earliest stream
    rate: Fraction = Fraction(0)  # frames per second on average; 0 where nothing tells
    frame_seconds: Fraction = Fraction(0)  # 1 / rate, or 0
    duration_seconds: Fraction | None = None  # from the first frame to the end of the last
    num_frames: int | None = None  # as the header says, else duration x rate
    last_tick: int | None = None
    own_seconds: Fraction | None = None  # `duration_seconds` where that is said of this very stream
    file_end_seconds: Fraction | None = None  # raw time stamp at which the file ends, that is its latest stream


def read_header(container: InputContainer, stream: VideoStream) -> Header:
    assert stream.time_base is not None
    coded = stream.codec_context.framerate
    if coded and Flags.no_timestamps in Flags(container.format.flags):  # a bare stream: no stamps to average
        rate = coded
    else:
        rate = stream.average_rate or coded or Fraction(0)
    duration = _duration_seconds(container, stream)
    guess = round(duration * rate) if duration is not None and rate else None
    last_tick = None
    if stream.duration is not None and stream.start_time is not None and container.format.name == _MP4:
        last_tick = stream.start_time + stream.duration
    return Header(
        time_base=stream.time_base,
        start_seconds=(container.start_time or 0) * MICROSECOND,
        rate=rate,
        frame_seconds=1 / rate if rate else Fraction(0),
        duration_seconds=duration,
        num_frames=stream.frames or guess,
        last_tick=last_tick,
        own_seconds=_own_seconds(container, stream, duration),
        file_end_seconds=_file_end_seconds(container),
    )


def _duration_seconds(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """As promised; None where only a longer sound track may be meant."""
    assert stream.time_base is not None
    start = stream.start_time * stream.time_base if stream.start_time is not None else Fraction(0)
    if stream.duration:
        return stream.duration * stream.time_base
    if tag := _duration_tag(stream):
        hours, minutes, seconds = (Fraction(part) for part in tag.groups())  # Matroska: when its last frame ends
        return hours * 3600 + minutes * 60 + seconds - start
    if container.duration and len(container.streams) == 1:
        return container.duration * MICROSECOND + (container.start_time or 0) * MICROSECOND - start
    return None


def _duration_tag(stream: VideoStream) -> re.Match[str] | None:
    return re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", "").strip("\0 "))


def _declares(container: InputContainer) -> bool:
    """Whether its durations come from the header: of others, FFmpeg looks at the last packets that are there."""
    return "mpeg" not in container.format.name and Flags.no_timestamps not in Flags(container.format.flags)


def _own_seconds(container: InputContainer, stream: VideoStream, duration_seconds: Fraction | None) -> Fraction | None:
    assert stream.time_base is not None
    name = container.format.name
    if name == "avi" and stream.frames:  # of a file cut short, FFmpeg shortens the duration, but not their number
        return stream.frames * stream.time_base
    if not stream.duration or not _declares(container):
        return duration_seconds if _duration_tag(stream) else None
    of_longest = len(container.streams) > 1 and name != _MP4  # ASF, for one, says of each how long all are
    return None if of_longest else duration_seconds


def _file_end_seconds(container: InputContainer) -> Fraction | None:
    if not container.duration or not _declares(container):
        return None
    from_zero = container.format.name == "matroska,webm"  # and not from the first frame
    return (container.duration + (0 if from_zero else container.start_time or 0)) * MICROSECOND


@dataclass(slots=True, eq=False)
class TimedFrame:
    """A `utils.types.Frame`: always its times, and its picture where `picture` gives it.

    What `picture` holds (a decoded frame, say) is let go once it has given its RGB.
    """

    index: int
    seconds: Fraction
    clock_seconds: Fraction
    duration_seconds: Fraction
    picture: Callable[[], np.ndarray] | None = field(default=None, repr=False)
    _rgb: np.ndarray | None = field(default=None, repr=False)

    @classmethod
    def like(cls, frame: Frame, picture: Callable[[], np.ndarray] | None = None) -> "TimedFrame":
        """At the times of another frame."""
        return cls(frame.index, frame.seconds, frame.clock_seconds, frame.duration_seconds, picture)

    def to_rgb(self) -> np.ndarray:
        """uint8 (h, w, 3), 0..255, turned as displayed. Later calls give the same array: copy it before writing."""
        if self._rgb is None:
            if self.picture is None:
                raise NotImplementedError("this frame tells its times; its picture is not decoded")
            self._rgb, self.picture = self.picture(), None
        return self._rgb


@dataclass
class PtsOrDts:
    """Which of a frame's two time stamps to believe: pts, until it has failed to rise more often than dts has.

    FFmpeg calls the outcome the best effort time stamp. It matters where a container stores dts only (AVI with
    B-frames) and after damage, when pts jump about. `dts_fell` tells a stream that starts anew from such a jump.
    """

    dts_fell: bool = False
    _last_pts: int | None = None
    _last_dts: int | None = None
    _pts_faults: int = 0
    _dts_faults: int = 0

    def best(self, pts: int | None, dts: int | None) -> int | None:
        self.dts_fell = dts is not None and self._last_dts is not None and dts < self._last_dts
        if dts is not None:
            self._dts_faults += self._last_dts is not None and dts <= self._last_dts
        self._last_dts = dts if dts is not None else self._last_dts if pts is None else pts
        if pts is not None:
            self._pts_faults += self._last_pts is not None and pts <= self._last_pts
        self._last_pts = pts if pts is not None else self._last_pts if dts is None else dts
        return pts if dts is None or (pts is not None and self._pts_faults <= self._dts_faults) else dts


@dataclass
class Clock:
    """Turns raw time stamps, in presentation order, into frames with their times.

    The start of the file is rounded to the stream's ticks, as the ffmpeg program does before it filters.
    """

    header: Header
    restarts: list[Fraction] = field(default_factory=list)  # clock seconds at which the stamps started anew
    num_frames: int = 0  # so far
    _origin: int | Fraction | None = None
    _shift: Fraction = Fraction(0)
    _last_raw: int | Fraction | None = None
    _last_clock_seconds: Fraction = Fraction(0)
    _last_duration_seconds: Fraction = Fraction(0)

    def frame(self, pts: int | None, duration: int, *, may_restart: bool = True) -> TimedFrame:
        """The next frame; `pts` and `duration` in ticks of the time base, duration 0 where unknown.

        Where stamps fall by more than a jitter they are joined on to the last, if they `may_restart`; else held.
        """
        time_base, last_tick = self.header.time_base, self.header.last_tick
        if pts is not None and last_tick is not None and pts < last_tick < pts + duration:
            duration = last_tick - pts
        start = nearest(self.header.start_seconds / time_base)
        # What the file says, else the step from the last frame, else the usual, at least one tick.
        step = pts - self._last_raw if pts is not None and self._last_raw is not None else 0
        seconds = duration * time_base if duration > 0 else max(step * time_base, Fraction(0))
        seconds = seconds or self.header.frame_seconds or time_base
        raw: int | Fraction
        if pts is not None:
            raw = pts
        else:  # count on from the last frame; in whole microseconds, as the ffmpeg program does
            seconds = seconds // MICROSECOND * MICROSECOND
            raw = start if self._last_raw is None else self._last_raw + self._last_duration_seconds / time_base
        self._origin = raw if self._origin is None else self._origin
        clock = (raw - start) * time_base + self._shift
        if self._last_raw is not None and clock < self._last_clock_seconds:
            clock = self._go_back(clock, may_restart)
        self._last_raw, self._last_clock_seconds, self._last_duration_seconds = raw, clock, seconds
        self.num_frames += 1
        return TimedFrame(self.num_frames - 1, (raw - self._origin) * time_base, clock, seconds)

    @property
    def joined_seconds(self) -> Fraction:
        """From the first frame to the end of the last, where stamps started anew; else 0."""
        if self._last_raw is None or self._origin is None or not self.restarts:
            return Fraction(0)
        return (self._last_raw - self._origin) * self.header.time_base + self._shift + self._last_duration_seconds

    def _go_back(self, clock: Fraction, may_restart: bool) -> Fraction:
        if not may_restart or self._last_clock_seconds - clock <= RESTART_SECONDS:
            return self._last_clock_seconds
        joined = self._last_clock_seconds + self._last_duration_seconds
        self._shift += joined - clock
        self.restarts.append(joined)
        return joined
