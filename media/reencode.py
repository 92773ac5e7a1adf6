"""`keep_tmp_files`: the re-timed video as a file that can be looked at, and read back to the bit.

The file is lossless RGB (H.264 High 4:4:4 Predictive, no colour conversion), because a YUV file, lossless or not,
would not give the same pixels back. The rows themselves are sent to ffmpeg rather than the source file: what
is written is then what was selected, whatever the container, the damage or the version of the ffmpeg program.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import IO

import ffmpeg
import imageio_ffmpeg
import numpy as np

from media.container import TimedFrame
from media.video import VideoReader
from utils.errors import MediaError, UserError
from utils.part_files import part_file
from utils.types import Row

_ENCODER = {"vcodec": "libx264rgb", "qp": 0, "preset": "veryfast"}  # qp 0 is lossless


def kept_path(tmp_path: str | os.PathLike[str], name: str) -> Path:
    """Where the re-timed video of the item `name` goes: `<tmp_path>/<name>_new_fps.mp4`, as in video_features."""
    return Path(tmp_path) / f"{name}_new_fps.mp4"


def through_file(rows: Iterator[Row], target: str | os.PathLike[str], *, rate: Fraction) -> Iterator[Row]:
    """The same rows, by way of the video file `target`: all are written, then read back; the file stays.

    `rate` in rows per second is only what players show; the times of the rows are kept as they are.
    MediaError if ffmpeg fails or the size of the frames changes on the way. The file appears when it is complete;
    runs that write the same one at once do not disturb each other.
    """
    written = write_rows(rows, Path(target), rate=rate)
    num_read = 0
    with VideoReader(target) as video:
        for row, copy in zip(written, video.frames(), strict=False):
            yield Row(TimedFrame.like(row.frame, copy.to_rgb), row.seconds)
            num_read += 1
    if num_read != len(written):
        raise MediaError(f"{target}: {len(written)} rows were written, {num_read} read back; is the disk full?")


def write_rows(rows: Iterator[Row], target: Path, *, rate: Fraction) -> list[Row]:
    """Writes the rows to `target` (.mp4, replaced); gives them back without their pictures."""
    if rate <= 0:
        raise ValueError(f"rate={rate}: expected rows per second above 0")
    with part_file(target) as unfinished, tempfile.TemporaryFile() as messages:
        written = _encode(rows, Path(unfinished.name), target, rate, messages)
        if os.name != "posix":
            unfinished.close()
        os.replace(unfinished.name, target)
    return written


def _encode(rows: Iterator[Row], unfinished: Path, target: Path, rate: Fraction, messages: IO[bytes]) -> list[Row]:
    process: subprocess.Popen[bytes] | None = None
    written: list[Row] = []
    first_size = ""
    try:
        for row in rows:
            rgb = row.frame.to_rgb()
            size = f"{rgb.shape[1]}x{rgb.shape[0]}"
            if process is None:
                process, first_size = _start_ffmpeg(unfinished, size, rate, messages), size
            if size != first_size:
                sizes = f"{first_size} to {size}"
                raise MediaError(
                    f"{target}: frames change from {sizes}, one file cannot hold both; keep_tmp_files=false"
                )
            assert process.stdin is not None
            process.stdin.write(np.ascontiguousarray(rgb).data)
            written.append(Row(TimedFrame.like(row.frame), row.seconds))
        if process is not None:
            process.communicate()  # closes its input and waits
    except BrokenPipeError:  # ffmpeg gave up; it has said why
        assert process is not None
        process.wait()
    finally:  # stopped or failed on our side: leave no process behind
        if process is not None:
            process.kill()
            process.wait()
            with suppress(BrokenPipeError):
                process.stdin.close()  # type: ignore[union-attr]
    if process is None:
        raise MediaError(f"{target}: no rows to write")
    if process.returncode:
        raise MediaError(f"{target}: ffmpeg could not write it ({_last_line(messages) or process.returncode})")
    return written


def _start_ffmpeg(target: Path, size: str, rate: Fraction, messages: IO[bytes]) -> subprocess.Popen[bytes]:
    frames = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=size, framerate=rate)
    # The prefix keeps ffmpeg from reading a name with a colon as a protocol, or one with a dash as an option.
    output = frames.output(f"file:{target.absolute()}", format="mp4", fps_mode="passthrough", **_ENCODER)
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise UserError(f"keep_tmp_files=true needs the ffmpeg program: {error}") from error
    command = output.global_args("-loglevel", "error", "-nostdin", "-y").compile(cmd=program)
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=messages)


def _last_line(messages: IO[bytes]) -> str:
    messages.seek(0)
    lines = messages.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
