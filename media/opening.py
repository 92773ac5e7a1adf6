"""Opens a file, whatever its name, and finds its video stream."""

from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

from media.clock import MICROSECOND, Clock
from media.facts import usual_frame_seconds
from utils.errors import MediaError


def open_stream(path: Path) -> tuple[InputContainer, VideoStream]:
    """The file and its first video stream that is no cover picture; MediaError if there is none to be had."""
    if not path.exists():
        raise MediaError(f"{path}: no such file")
    if path.is_dir():
        raise MediaError(f"{path}: expected a video file, found a folder")
    try:
        # The prefix keeps FFmpeg from reading `12:30.mp4` as a protocol or `-x.mp4` as an option.
        container = av.open(f"file:{path.absolute()}", metadata_errors="replace")
    except (FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"{path}: cannot be opened as a video ({reason(error)}); is the file complete?") from error
    if container.format.name == "tty":  # FFmpeg would draw the letters and call that a video
        container.close()
        raise MediaError(f"{path}: expected a video file, found text; is this a list for file_with_video_paths?")
    pictures = [stream for stream in container.streams.video if stream.disposition & Disposition.attached_pic]
    streams = [stream for stream in container.streams.video if stream not in pictures]
    if streams and streams[0].codec_context is not None:
        return container, streams[0]
    kinds = sorted({stream.type for stream in container.streams} - {"video"})
    container.close()
    if streams:
        raise MediaError(f"{path}: the codec of its video stream is unknown to this FFmpeg")
    found = " and ".join([*kinds, *(["a cover picture"] if pictures else [])])
    raise MediaError(f"{path}: no video stream in it, found {f'only {found}' if found else 'nothing'}")


def reason(error: Exception) -> str:
    """One line on what went wrong."""
    return str(getattr(error, "strerror", None) or error).splitlines()[0]


def new_clock(container: InputContainer, stream: VideoStream) -> Clock:
    """Counts from the start of the file, that is of its earliest stream."""
    assert stream.time_base is not None
    start = container.start_time if container.start_time is not None else 0
    return Clock(stream.time_base, start * MICROSECOND, usual_frame_seconds(container, stream))
