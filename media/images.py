"""Image files in: whatever Pillow decodes, still or animated. The one place that knows how Pillow complains."""

import io
import os
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import ExifTags, Image, UnidentifiedImageError

from media.limits import DEFAULT_LIMITS, Limits, open_regular
from media.structure import gif_ends_early
from utils.errors import MediaError

# Recognised by Pillow, but decoded by other programs (EPS runs Ghostscript), by nothing, or not as an image.
_NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
_ANIMATED = frozenset({"AVIF", "FLI", "GIF", "PNG", "WEBP"})  # the frames of other formats are pages, layers or sizes
_NO_WARNINGS = frozenset({"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "WEBP"})  # while decoding
_SHORTEST_MS, _USUAL_MS = 10, 100
_MOST_BYTES = 4 << 30  # that are read into memory; no picture that Pillow decodes is larger
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, AssertionError),
    *(AttributeError, RuntimeError, struct.error, zlib.error),
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class ImageFrame:
    """A decoded frame in the file's own mode, and when it is first shown."""

    picture: Image.Image
    seconds: float


def image_suffixes() -> frozenset[str]:
    """Endings of files that `open_image` can decode, lower case, with dot."""
    endings = Image.registered_extensions().items()
    return frozenset(ending for ending, format_ in endings if format_ in {*_formats(), "MPO"})


def open_image(path: str | Path, *, exif_orientation: bool = False, limits: Limits = DEFAULT_LIMITS) -> "ImageReader":
    """The frames of an image file. MediaError says what is wrong with a file that is none.

    The pixels are those of Pillow: EXIF orientation is ignored, as in the original, unless `exif_orientation`.
    """
    return ImageReader(_read(Path(path)), str(path), exif_orientation=exif_orientation, limits=limits)


def load_image(data: bytes | Path, name: str = "") -> Image.Image:
    """The first frame of a file, or of its bytes, in its own mode; EXIF orientation is ignored.

    MediaError calls the image `name`, where there is one.
    """
    name = name or (str(data) if isinstance(data, Path) else "image")
    reader = ImageReader(data if isinstance(data, bytes) else _read(data), name)
    return next(iter(reader)).picture  # closing the reader would close the picture too


def frames_by_header(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> int:
    """How many frames `open_image` would give, without decoding any. MediaError for what is no image."""
    with os.fdopen(open_regular(path, "an image file"), "rb") as file:
        start = file.read(16)
        if not start:
            raise MediaError(f"{path}: an empty file, 0 bytes")
        file.seek(0)
        with _named(str(path), start), _collected([]), Image.open(file, formats=_formats()) as image:
            count = getattr(image, "n_frames", 1) if image.format in _ANIMATED else 1
            limits.check_animation(path, *image.size, count)
            return count - bool(count > 1 and image.info.get("default_image"))


class ImageReader:
    """One frame of a still image, all of an animated GIF, WebP, PNG (APNG) or AVIF; see `open_image`.

    Frames are complete (composed with what they are drawn over). Those shown for 10 ms or less, or for no time at
    all, count as 100 ms, as in browsers and in FFmpeg. Of multi-page files only the first page is used. Pictures can
    be used until the reader is closed.
    """

    warnings: list[str]
    facts: dict[str, Any]  # format, mode, width_px, height_px, frames, exif_orientation

    def __init__(
        self, data: bytes, name: str, *, exif_orientation: bool = False, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self._name, self.warnings = name, []
        if not data:
            raise MediaError(f"{name}: an empty file, 0 bytes")
        with _named(name, data), _collected(self.warnings):
            self._image = Image.open(io.BytesIO(data), formats=_formats())
        self._indices = self._frames(data)
        limits.check_animation(name, *self._image.size, len(self._indices))
        self._decode(self._indices[0])
        with _collected(self.warnings):
            orientation = self._orientation()
        self._turn = _TURNS.get(orientation) if exif_orientation else None
        self.facts = {
            "format": self._image.format,
            "mode": self._image.mode,
            "width_px": self._image.width,
            "height_px": self._image.height,
            "frames": len(self._indices),
            "exif_orientation": orientation,
        }
        self._look_for_traps()

    def __enter__(self) -> "ImageReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._image.close()

    def __iter__(self) -> Iterator[ImageFrame]:
        """Frames in order, from the first; MediaError where one cannot be decoded."""
        milliseconds = 0.0
        for index in self._indices:
            self._decode(index)
            picture = self._image if len(self._indices) == 1 else self._image.copy()
            if isinstance(picture.info.get("transparency"), bytes):  # makes Pillow warn, and changes no colour
                picture.info = {key: value for key, value in picture.info.items() if key != "transparency"}
            yield ImageFrame(picture.transpose(self._turn) if self._turn is not None else picture, milliseconds / 1000)
            shown = float(self._image.info.get("duration") or 0)
            milliseconds += shown if shown > _SHORTEST_MS else _USUAL_MS

    def _frames(self, data: bytes) -> range:
        with _named(self._name, data), _collected(self.warnings):
            count = getattr(self._image, "n_frames", 1)
        if count == 1:
            return range(1)
        if self._image.format == "GIF" and gif_ends_early(data):  # between two frames, where Pillow sees nothing
            raise MediaError(f"{self._name}: ends early: the last bytes of the file are missing")
        if self._image.format not in _ANIMATED:
            if self._image.format != "MPO":  # phones: the second is a copy for other screens, or a depth map
                self.warnings.append(f"{count} pages in this {self._image.format}: only the first is used")
            return range(1)
        if self._image.info.get("default_image"):
            self.warnings.append("the still image for viewers without animation is left out")
            return range(1, count)
        return range(count)

    def _decode(self, index: int) -> None:
        with _named(self._name):
            if self._image.tell() != index:
                self._image.seek(index)
            if self._image.format in _NO_WARNINGS:
                self._image.load()
                return
            with _collected(self.warnings):
                self._image.load()

    def _orientation(self) -> int:
        try:
            return int(self._image.getexif().get(ExifTags.Base.Orientation, 1))
        except _DAMAGE as error:
            self.warnings.append(f"its EXIF data cannot be read ({_reason(error)})")
            return 1

    def _look_for_traps(self) -> None:
        width, height, mode = self._image.width, self._image.height, self._image.mode
        if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
            self.warnings.append(f"a very large image, {width} x {height} pixels")
        if mode in ("I", "F") or mode.startswith("I;16"):
            low, high = self._image.getextrema()
            if high > 255 or low < 0:  # pyright: ignore[reportOperatorIssue]
                kind = {"F": "floating-point", "I": "32-bit"}.get(mode, "16-bit")
                self.warnings.append(f"{kind} greyscale: values outside 0..255 are clipped, as in the original")


def _read(path: Path) -> bytes:
    """At once: a file that is replaced meanwhile is then either the old or the new one."""
    try:
        with os.fdopen(open_regular(path, "an image file"), "rb") as file:
            if (size := os.fstat(file.fileno()).st_size) > _MOST_BYTES:
                most = f"the limit is {_MOST_BYTES / 2**30:g} GB"
                raise MediaError(f"{path}: {size / 2**30:.1f} GB are too many for an image file, {most}")
            return file.read()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({_reason(error)})") from error


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(format_ for format_ in Image.ID if format_ not in _NOT_DECODED)


@contextmanager
def _named(name: str, data: bytes = b"") -> Iterator[None]:
    """What Pillow raises about damaged files becomes a MediaError. On broken headers it raises almost anything."""
    try:
        yield
    except MediaError:  # said already
        raise
    except Image.DecompressionBombError as error:
        pixels, limit = re.findall("[0-9]+", str(error))[:2]
        raise MediaError(f"{name}: {pixels} pixels are too many, the limit is {limit}; shrink the image") from error
    except UnidentifiedImageError as error:
        raise MediaError(f"{name}: not an image of any known format, it starts with {data[:16]!r}") from error
    except _DAMAGE as error:
        raise MediaError(f"{name}: a damaged image ({_reason(error)})") from error


@contextmanager
def _collected(into: list[str]) -> Iterator[None]:
    """Pillow's warnings, as text. Python keeps warning filters for all threads together, hence the lock.

    It costs nothing around Python code such as that for headers; decoders, which do run in parallel, stay outside.
    """
    with _one_at_a_time, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for each in caught:
        if "PIL" not in Path(each.filename).parts:  # another thread's
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
        elif each.category is not Image.DecompressionBombWarning:
            into.append(str(each.message).strip())


def _reason(error: BaseException) -> str:
    text = str(getattr(error, "strerror", None) or error)
    return text.splitlines()[0] if text else type(error).__name__
