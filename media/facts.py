"""What a container's header says of its video stream. It can be wrong, so nothing is counted by it."""

import re
from fractions import Fraction
from typing import Any

from av.container import InputContainer
from av.format import Flags
from av.video.stream import VideoStream

from media.clock import MICROSECOND


def header_facts(container: InputContainer, stream: VideoStream) -> dict[str, Any]:
    """The fields of `VideoInfo` that need no decoded frame."""
    rate = average_rate(container, stream)
    duration = duration_seconds(container, stream)
    guess = round(duration * rate) if duration is not None and rate else None
    return {
        "container": container.format.name,
        "codec": stream.codec_context.name,
        "fps": float(rate),
        "start_seconds": float((container.start_time or 0) * MICROSECOND),
        "duration_seconds": None if duration is None else float(duration),
        "num_frames": stream.frames or guess,
        "sample_aspect_ratio": stream.sample_aspect_ratio or Fraction(1),
    }


def average_rate(container: InputContainer, stream: VideoStream) -> Fraction:
    """Frames per second; 0 where nothing tells. A bare stream has no stamps to average: there the codec knows best."""
    coded = stream.codec_context.framerate
    if coded and Flags.no_timestamps in Flags(container.format.flags):
        return coded
    return stream.average_rate or coded or Fraction(0)


def usual_frame_seconds(container: InputContainer, stream: VideoStream) -> Fraction:
    rate = average_rate(container, stream)
    return 1 / rate if rate else Fraction(0)


def duration_seconds(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """From the first frame to the end of the last, as promised; None where only a longer sound track may be meant."""
    assert stream.time_base is not None
    start = stream.start_time * stream.time_base if stream.start_time is not None else Fraction(0)
    if stream.duration:
        return stream.duration * stream.time_base
    if tag := re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", "").strip("\0 ")):
        hours, minutes, seconds = (Fraction(part) for part in tag.groups())  # Matroska: when its last frame ends
        return hours * 3600 + minutes * 60 + seconds - start
    if container.duration and len(container.streams) == 1:
        return container.duration * MICROSECOND + (container.start_time or 0) * MICROSECOND - start
    return None


def last_tick(container: InputContainer, stream: VideoStream) -> int | None:
    """Where an MP4 says that its last frame ends, in raw ticks; None for other containers.

    Some writers give the last frame a duration of one tick. FFmpeg 5 took that as it is, FFmpeg 8 puts the usual
    duration in its place, so that the `fps` filter emits one row more. We keep to the file.
    """
    if stream.duration is None or stream.start_time is None or "mp4" not in container.format.name:
        return None
    return stream.start_time + stream.duration
