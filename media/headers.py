"""What files say of themselves before anything is decoded: quick, and right as far as they are."""

from dataclasses import dataclass
from pathlib import Path

from media.container import open_stream, read_header
from media.limits import DEFAULT_LIMITS, Limits
from media.packets import scan

_LEAST_FRAME_BYTES = 16  # what promises frames of fewer is not to be believed


@dataclass(frozen=True)
class VideoHeader:
    seconds: float
    num_frames: int
    pixels: int  # of a frame


def video_header(path: Path, limits: Limits = DEFAULT_LIMITS) -> VideoHeader:
    """MediaError for what is no video. Where a header does not tell, or what cannot be, the packets are counted."""
    container, stream = open_stream(path, limits)
    with container:
        header = read_header(container, stream)
        pixels = stream.codec_context.width * stream.codec_context.height
    seconds, frames = header.duration_seconds, header.num_frames
    if seconds is None or frames is None or frames * _LEAST_FRAME_BYTES > path.stat().st_size:
        extent = scan(path, limits)
        seconds, frames = extent.duration_seconds, extent.num_frames
    limits.check_hours(path, seconds)
    return VideoHeader(float(seconds), frames, pixels)
