"""Whether a file is there to its end, as far as its container tells.

Three things tell: lengths that enclose the media (boxes, chunks, pages ...), a mark at the end, and the duration that
the header declares. Nothing tells of raw streams (H.264, HEVC, AV1 ...), NUT, and of recordings without a declared
length (MPEG-TS and -PS, live WebM and FLV) that end exactly between two of their packets.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from media.container import Header
from media.structure import state_of

_SLACK_SECONDS = Fraction(1, 5)
_DOUBTFUL_SECONDS = 1  # by which a header may be wrong about a file that has no definite end


@dataclass
class Reach:
    """From where and how far the packets of a file reach, in any of its streams."""

    last_tick: int | None = None  # of the film: what an edit list hides behind it is no part of it
    first_pts: int | None = None  # of the stream that is read
    latest_ticks: dict[int, int] = field(default_factory=dict)  # by the stream's index, in its time base
    last: av.Packet | None = None

    def packets(self, container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
        """Those of `stream`, while all are looked at."""
        # A stream that appears on the way (in SWF, say) has no place in PyAV's list: when it has to end that stream,
        # behind all others, it may raise an IndexError.
        with suppress(IndexError):
            for packet in container.demux():
                mine = packet.stream is stream  # those that end the streams have no index of their own
                if packet.pts is not None:
                    self._note(packet, packet.pts, mine)
                if packet.size:
                    self.last = packet
                if mine:
                    yield packet

    def _note(self, packet: av.Packet, pts: int, mine: bool) -> None:
        if mine and packet.is_discard:
            if self.last_tick is not None and pts >= self.last_tick:
                return
        elif mine and packet.size and self.first_pts is None:
            self.first_pts = pts
        index, end = packet.stream_index, pts + (packet.duration or 0)
        self.latest_ticks[index] = max(end, self.latest_ticks.get(index, end))

    def lost_before(self, picture: av.VideoFrame) -> Fraction:
        """Seconds that `picture`, the first of all, comes behind the first packet, if they are many.

        A recording may begin between two pictures that a decoder can begin at: that much may be missing.
        """
        if picture.pts is None or self.first_pts is None or picture.time_base is None:
            return Fraction(0)
        lost = (picture.pts - self.first_pts) * picture.time_base
        return lost if lost > _DOUBTFUL_SECONDS else Fraction(0)

    def seconds(self, container: InputContainer) -> dict[int, Fraction]:
        """Raw time stamps at which the streams end."""
        bases = {stream.index: stream.time_base or Fraction(0) for stream in container.streams}
        return {index: ticks * bases[index] for index, ticks in self.latest_ticks.items() if index in bases}


@dataclass(frozen=True)
class Promise:
    """What the header says that there is, and how much of that is missing."""

    seconds: Fraction
    missing_seconds: Fraction


@dataclass(frozen=True)
class Found:
    """What there is. Where time stamps restart, the parts are joined on, each to the one before."""

    end_seconds: Fraction  # when the last frame ends, 0 = the first
    reach: Reach
    joined: bool = False


def promises(container: InputContainer, stream: VideoStream, header: Header, found: Found) -> list[Promise]:
    """The best first: of the video stream, then of the longest of all. Together, only of a stream that is alone."""
    ends = found.reach.seconds(container)
    given = []
    if header.own_seconds is not None:
        first = stream.start_time or 0  # MXF says 0 also where its first frame comes one later
        start = max(first, first if found.reach.first_pts is None else found.reach.first_pts) * header.time_base
        there = max(found.end_seconds, ends.get(stream.index, start) - start)  # with packets that an edit list hides
        given.append(Promise(header.own_seconds, header.own_seconds - there))
    alone = len(container.streams) == 1
    if header.file_end_seconds is not None and ends and (alone or not (given or found.joined)):
        there = max(ends.values())
        if found.joined:
            there = max(there, header.start_seconds + found.end_seconds)
        given.append(Promise(header.file_end_seconds, header.file_end_seconds - there))
    return given


def verdict(
    path: Path, container: str, given: Sequence[Promise], frame_seconds: Fraction, last: av.Packet | None
) -> tuple[bool, str]:
    """(whether media are lost, what tells so); "" where nothing does."""
    promise = given[0] if given else None
    state = state_of(path, container, last, closely=promise is None or promise.missing_seconds > _SLACK_SECONDS)
    bytes_lost = state in ("torn", "cut")
    if bytes_lost:  # then also the second best is believed, where it misses much
        promise = next((each for each in given if each.missing_seconds > _DOUBTFUL_SECONDS), promise)
    # Where the file itself ends early, each frame counts.
    slack = frame_seconds * 3 / 2 if bytes_lost else max(_SLACK_SECONDS, 3 * frame_seconds)
    if promise is not None and promise.missing_seconds > slack:
        lost = bytes_lost or (state == "unknown" and promise.missing_seconds > _DOUBTFUL_SECONDS)
        return lost, f"its header says {float(promise.seconds):.2f} s"
    if state == "torn" or (state == "cut" and promise is None):
        return True, "the last bytes of the file are missing"
    return False, "the last bytes of the file are missing, but no video" if state == "cut" else ""
