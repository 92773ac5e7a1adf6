"""Time stamps of decoded frames, counted as the ffmpeg program counts them."""

from dataclasses import dataclass, field
from fractions import Fraction

RESTART_SECONDS = Fraction(1, 10)  # going back by more means that the stamps start anew (ffmpeg's own threshold)
MICROSECOND = Fraction(1, 1_000_000)


def nearest(value: Fraction) -> int:
    """The nearest integer, halves away from zero (FFmpeg's AV_ROUND_NEAR_INF)."""
    return int(abs(value) + Fraction(1, 2)) * (1 if value >= 0 else -1)


@dataclass(frozen=True)
class Stamp:
    """When a frame is shown. `seconds` is literal, 0 = first frame; `clock_seconds` never falls, 0 = start of file."""

    seconds: Fraction
    clock_seconds: Fraction
    duration_seconds: Fraction


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
    """Turns raw time stamps, in presentation order, into `Stamp`s.

    `start_seconds` is the time stamp at which the file (its earliest stream) starts; it is rounded to the
    stream's ticks, as the ffmpeg program does before it filters. `usual_seconds` is the frame duration to assume
    where neither the frame nor its neighbours tell.
    """

    time_base: Fraction
    start_seconds: Fraction = Fraction(0)
    usual_seconds: Fraction = Fraction(0)
    restarts: list[Fraction] = field(default_factory=list)  # clock seconds at which the stamps started anew
    _origin: int | Fraction | None = None
    _shift: Fraction = Fraction(0)
    _last_raw: int | Fraction | None = None
    _last: Stamp | None = None

    def stamp(self, pts: int | None, duration: int, *, may_restart: bool = True) -> Stamp:
        """`pts` and `duration` in ticks of the time base; duration 0 where unknown.

        Where stamps fall by more than a jitter they are joined on to the last, if they `may_restart`; else held.
        """
        start = nearest(self.start_seconds / self.time_base)
        seconds = self._duration(pts, duration)
        if pts is not None:
            raw: int | Fraction = pts
        else:  # count on from the last frame; in whole microseconds, as the ffmpeg program does
            seconds = seconds // MICROSECOND * MICROSECOND
            raw = start if self._last_raw is None or self._last is None else self._count_on()
        self._origin = raw if self._origin is None else self._origin
        clock = (raw - start) * self.time_base + self._shift
        if self._last is not None and clock < self._last.clock_seconds:
            clock = self._go_back(clock, self._last, may_restart)
        self._last_raw = raw
        self._last = Stamp((raw - self._origin) * self.time_base, clock, seconds)
        return self._last

    def _count_on(self) -> Fraction:
        assert self._last is not None
        assert self._last_raw is not None
        return self._last_raw + self._last.duration_seconds / self.time_base

    def _go_back(self, clock: Fraction, last: Stamp, may_restart: bool) -> Fraction:
        if not may_restart or last.clock_seconds - clock <= RESTART_SECONDS:
            return last.clock_seconds
        joined = last.clock_seconds + last.duration_seconds
        self._shift += joined - clock
        self.restarts.append(joined)
        return joined

    def _duration(self, pts: int | None, duration: int) -> Fraction:
        """What the file says, else the step from the last frame, else the usual, at least one tick."""
        step = pts - self._last_raw if pts is not None and self._last_raw is not None else 0
        if duration > 0:
            return duration * self.time_base
        return max(step * self.time_base, Fraction(0)) or self.usual_seconds or self.time_base
