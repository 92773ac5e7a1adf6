"""What is refused of files that others made, before it costs anything: special files, and what asks for too much."""

import os
import stat
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path

from utils.errors import MediaError, UserError, check_count, check_number

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


FEWER = "ask for fewer, or raise it"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one file may ask for, each under the name of the key that raises it.

    The defaults leave room for 12K video, and for every frame of 46 hours at 60 frames per second. For still images
    Pillow has a limit of its own, 179 megapixels.
    """

    max_frame_megapixels: float = 100  # of a frame of a video
    max_animation_megapixels: float = 10_000  # of an animated image, all frames together
    max_video_hours: float = 48
    max_rows: int = 10_000_000  # of one video, or frames of it that are looked at

    def __post_init__(self) -> None:
        check_count("max_rows", self.max_rows)
        for name in (each.name for each in fields(self)):
            check_number(name, value := getattr(self, name), least=0)
            if not value:
                raise UserError(f"{name}=0: expected a number above 0")

    @property
    def padded_pixels(self) -> int:
        """Of a frame as decoders keep it, with sides that are multiples of 64 or so."""
        return round(self.max_frame_megapixels * 1.05e6) + 1_000_000

    def check_frame(self, name: object, width_px: int, height_px: int) -> None:
        """MediaError for a frame of too many pixels, of the file `name`."""
        if width_px * height_px > self.max_frame_megapixels * 1e6:
            raise MediaError(
                f"{name}: its frames have {width_px} x {height_px} pixels, more than "
                f"max_frame_megapixels={self.max_frame_megapixels:g} allows"
            )

    def check_animation(self, name: object, width_px: int, height_px: int, num_frames: int) -> None:
        """MediaError for frames of too many pixels in all."""
        if width_px * height_px * num_frames > self.max_animation_megapixels * 1e6:
            raise MediaError(
                f"{name}: {num_frames} frames of {width_px} x {height_px} pixels are more than "
                f"max_animation_megapixels={self.max_animation_megapixels:g} allows"
            )

    def are_passed_by(self, seconds: Fraction, num_rows: Fraction | int) -> bool:
        """Whether a video so long, with so many rows, would be refused."""
        return seconds > self._most_seconds or num_rows > self.max_rows

    def check_hours(self, name: object, seconds: Fraction) -> None:
        """MediaError for a video that is too long."""
        if seconds > self._most_seconds:
            raise MediaError(
                f"{name}: lasts {float(seconds) / 3600:.1f} hours by its time stamps, more than "
                f"max_video_hours={self.max_video_hours:g} allows"
            )

    @property
    def _most_seconds(self) -> float:
        return self.max_video_hours * 3600

    def check_rows(self, name: object, num_rows: int) -> None:
        """MediaError for a video that asks for too many rows."""
        if num_rows > self.max_rows:
            raise MediaError(f"{name}: asks for {num_rows} rows, more than max_rows={self.max_rows} allows: {FEWER}")


DEFAULT_LIMITS = Limits()


def open_regular(path: Path, expected: str) -> int:
    """A file descriptor for reading; MediaError where `path` is no `expected` ("a video file") that can be read.

    Pipes, sockets and devices may keep a reader waiting for ever, or have no end.
    """
    try:
        found = _KINDS.get(stat.S_IFMT(path.stat().st_mode))
        if found is None:
            flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
            return os.open(path, flags)
    except FileNotFoundError as error:
        raise MediaError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise MediaError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    raise MediaError(f"{path}: expected {expected}, found {found}")
