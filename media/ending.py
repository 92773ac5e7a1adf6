"""Whether a file is there to its end, as far as its container tells.

Three things tell: lengths that enclose the media (boxes, chunks, pages ...), a mark at the end, and the duration that
the header declares. Nothing tells of raw streams (H.264, HEVC, AV1 ...), NUT, and of recordings without a declared
length (MPEG-TS and -PS, live WebM and FLV) that end exactly between two of their packets.
"""

from collections.abc import Iterator
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
    """How far the packets of a file reach, in any of its streams."""

    latest_ticks: dict[int, int] = field(default_factory=dict)  # by the stream's index, in its time base
    last: av.Packet | None = None

    def packets(self, container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
        """Those of `stream`, while all are looked at."""
        latest = self.latest_ticks
        # A stream that appears on the way (in SWF, say) has no place in PyAV's list: when it has to end that stream,
        # behind all others, it may raise an IndexError.
        with suppress(IndexError):
            for packet in container.demux():
                index, pts = packet.stream_index, packet.pts
                if pts is not None:
                    end = pts + (packet.duration or 0)
                    if end > latest.get(index, end - 1):
                        latest[index] = end
                if packet.size:
                    self.last = packet
                if packet.stream is stream:  # those that end the streams have no index of their own
                    yield packet

    def seconds(self, container: InputContainer) -> dict[int, Fraction]:
        """Raw time stamps at which the streams end."""
        bases = {stream.index: stream.time_base or Fraction(0) for stream in container.streams}
        return {index: ticks * bases[index] for index, ticks in self.latest_ticks.items() if index in bases}


@dataclass(frozen=True)
class Promise:
    """What the header says that there is, and how much of that is missing; None where it says nothing."""

    seconds: Fraction | None = None
    missing_seconds: Fraction | None = None
    frame_seconds: Fraction = Fraction(0)


def promised(
    container: InputContainer, stream: VideoStream, header: Header, reach: Reach, end_seconds: Fraction
) -> Promise:
    """Of the video stream, else of the longest of all; `end_seconds` is when the last frame ends, 0 = the first."""
    frame = header.frame_seconds
    ends = reach.seconds(container)
    if header.own_seconds is not None:
        start = (stream.start_time or 0) * header.time_base
        found = max(end_seconds, ends.get(stream.index, start) - start)  # with packets that an edit list hides
        return Promise(header.own_seconds, header.own_seconds - found, frame)
    if header.file_end_seconds is not None and ends:
        return Promise(header.file_end_seconds, header.file_end_seconds - max(ends.values()), frame)
    return Promise(frame_seconds=frame)


def verdict(path: Path, container: str, promise: Promise, last: av.Packet | None) -> tuple[bool, str]:
    """(whether media are lost, what tells so); "" where nothing does."""
    missing, frame = promise.missing_seconds, promise.frame_seconds
    doubtful = missing is None or missing > _SLACK_SECONDS
    state = state_of(path, container, last, closely=doubtful)
    if state in ("torn", "cut") and missing is not None:  # the file itself ends early: each frame counts
        short = missing > frame * 3 / 2
    else:
        short = missing is not None and missing > max(_SLACK_SECONDS, 3 * frame)
    if short and promise.seconds is not None and missing is not None:
        lost = state in ("torn", "cut") or (state == "unknown" and missing > _DOUBTFUL_SECONDS)
        return lost, f"its header says {float(promise.seconds):.2f} s"
    if state == "torn" or (state == "cut" and missing is None):
        return True, "the last bytes of the file are missing"
    return False, "the last bytes of the file are missing, but no video" if state == "cut" else ""
