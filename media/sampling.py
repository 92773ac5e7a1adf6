"""Which frames become rows of the result, and which time each row stands for. Knows no decoder.

A sampler turns a video into rows, in one pass that holds one frame. Rows that repeat a frame share it, so that it
is converted to RGB once; frames without a row are never converted.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol

from utils.errors import MediaError, UserError
from utils.types import Frame, Row, VideoInfo

_INT_MAX = 2**31 - 1


class VideoExtent(Protocol):
    @property
    def duration_seconds(self) -> Fraction: ...


class Video(Protocol):
    """What samplers need of a `media.video.VideoReader`."""

    path: Path
    info: VideoInfo

    def frames(self, *, skip: int = 0) -> Iterator[Frame]:
        """All of them; of the first `skip`, only the times need be known."""
        ...

    def rows(
        self, retime: Callable[[Iterator[Frame]], Iterator[Row]], *, apart_seconds: Fraction, skip: int = 0
    ) -> Iterator[Row]:
        """What `retime` makes of the frames, without the first `skip`; it selects frames by their times."""
        ...

    def extent(self) -> VideoExtent: ...


class Sampler(Protocol):
    def rows(self, video: Video, *, skip: int = 0) -> Iterator[Row]:
        """Without the first `skip`. At least one row in all, or MediaError."""
        ...

    def rate(self, video: Video) -> Fraction:
        """Rows per second, the number saved as `fps`; 0 where every frame is a row and the container does not tell."""
        ...


@dataclass(frozen=True)
class EveryFrame:
    """Each frame is a row, at its own time."""

    def rows(self, video: Video, *, skip: int = 0) -> Iterator[Row]:
        for frame in islice(video.frames(skip=skip), skip, None):
            yield Row(frame, float(frame.seconds))

    def rate(self, video: Video) -> Fraction:
        return Fraction(video.info.fps)


@dataclass(frozen=True)
class AtFps:
    """Re-times to `fps` as FFmpeg's `fps` filter does: row k stands for k/fps seconds.

    It shows the last frame whose slot, floor(t fps + 1/2), is not beyond the row's: content is up to half a period
    later than the label. There are rows up to the slot in which the last frame ends.
    """

    fps: Fraction

    def __post_init__(self) -> None:
        object.__setattr__(self, "fps", parse_rate(self.fps, key="extraction_fps"))

    def rows(self, video: Video, *, skip: int = 0) -> Iterator[Row]:
        row = None
        for row in video.rows(partial(retimed, rate=self.fps), apart_seconds=1 / self.fps, skip=skip):
            yield row
        if row is None and not skip:
            raise MediaError(
                f"{video.path}: {float(video.extent().duration_seconds):.3f} s are too short for one row at "
                f"extraction_fps={float(self.fps):g}; use a higher extraction_fps, or extraction_total=1"
            )

    def rate(self, video: Video) -> Fraction:
        return self.fps


@dataclass(frozen=True)
class Total:
    """Exactly `num_rows` rows, spread evenly: `AtFps` at num_rows / duration, counted from the first frame.

    The duration is that of the packets, as headers can be wrong, so the file is first scanned without decoding.
    Where damage makes it end before that, the last frame is repeated.
    """

    num_rows: int

    def __post_init__(self) -> None:
        if isinstance(self.num_rows, bool) or not isinstance(self.num_rows, int) or self.num_rows < 1:
            raise UserError(f"extraction_total={self.num_rows}: expected a whole number of rows, 1 or more")

    def rows(self, video: Video, *, skip: int = 0) -> Iterator[Row]:
        rate = self.rate(video)
        return video.rows(partial(self._rows, rate=rate), apart_seconds=1 / rate, skip=skip)

    def _rows(self, frames: Iterator[Frame], rate: Fraction) -> Iterator[Row]:
        last: Frame | None = None

        def passed_on() -> Iterator[Frame]:
            nonlocal last
            for frame in frames:
                last = frame
                yield frame

        passing = passed_on()
        num_out = 0
        for row in islice(retimed(passing, rate, from_first=True), self.num_rows):
            yield row
            num_out += 1
        for _ in passing:  # to the end, so that damage there is noticed whatever the sampler
            pass
        if last is not None:
            yield from (Row(last, float(k / rate)) for k in range(num_out, self.num_rows))

    def rate(self, video: Video) -> Fraction:
        rate = (self.num_rows / video.extent().duration_seconds).limit_denominator(_INT_MAX)
        return rate or Fraction(1, _INT_MAX)


def sampler_from(extraction_fps: float | Fraction | str | None = None, extraction_total: int | None = None) -> Sampler:
    """The sampler for the two keys of the command line; UserError where both are given or one is no good."""
    if extraction_fps is not None and extraction_total is not None:
        raise UserError(
            f"expected at most one of extraction_fps and extraction_total, found extraction_fps={extraction_fps} "
            f"and extraction_total={extraction_total}: leave one of them null"
        )
    if extraction_fps is not None:
        return AtFps(parse_rate(extraction_fps, key="extraction_fps"))
    return EveryFrame() if extraction_total is None else Total(extraction_total)


def parse_rate(value: float | Fraction | str, *, key: str) -> Fraction:
    """The fraction FFmpeg makes of a rate: 19.62 -> 981/50, 0.5526760563380282 -> 981/1775, "30000/1001"."""
    try:
        exact = Fraction(value) if not isinstance(value, bool) else None
    except (ValueError, TypeError, OverflowError, ZeroDivisionError):  # "fast", inf, nan, "1/0"
        exact = None
    if exact is None or exact <= 0:
        raise UserError(
            f"{key}={value}: expected a number of frames per second above 0, such as 1, 29.97 or 30000/1001"
        )
    rate = exact.limit_denominator(_INT_MAX // max(1, math.ceil(exact)) or 1)  # both halves fit a C int
    if not rate:
        raise UserError(f"{key}={value}: too small; expected at least 1e-9 frames per second")
    return rate


def retimed(frames: Iterator[Frame], rate: Fraction, *, from_first: bool = False) -> Iterator[Row]:
    """FFmpeg's `fps` filter (round=near) on `clock_seconds`; with `from_first` on a clock that starts with the video.

    Row k (labelled k / rate) is the last frame with slot <= first slot + k; slots are nearest(t x rate). There may
    be none: rows end where the slot of the last frame's end is reached.
    """
    held: Frame | None = None
    origin, first, due = Fraction(0), 0, 0
    for frame in frames:
        if held is None:
            origin = frame.clock_seconds if from_first else origin
            first = due = nearest((frame.clock_seconds - origin) * rate)
        else:
            slot = nearest((frame.clock_seconds - origin) * rate)
            yield from (Row(held, float((k - first) / rate)) for k in range(due, slot))
            due = max(due, slot)
        held = frame
    if held is not None:
        end = nearest((held.clock_seconds + held.duration_seconds - origin) * rate)
        yield from (Row(held, float((k - first) / rate)) for k in range(due, end))


def nearest(value: Fraction) -> int:
    """The nearest integer, halves away from zero (FFmpeg's AV_ROUND_NEAR_INF)."""
    return int(abs(value) + Fraction(1, 2)) * (1 if value >= 0 else -1)
