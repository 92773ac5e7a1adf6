"""Makes the sample videos and photos of this folder from free photos inside the scikit-image package.

    python sample/make_samples.py [FOLDER]

Needs scikit-image (in the `dev` extra) and PyAV. The camera moves over still photos: what is seen when, and at which
frame the shot changes, is known exactly and stands in README.md beside this file.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from skimage import data

WIDTH_PX, HEIGHT_PX = 320, 240


@dataclass(frozen=True)
class View:
    """A window on a photo, of the video's aspect ratio; in pixels of the photo."""

    center_x_px: float
    center_y_px: float
    width_px: float


@dataclass(frozen=True)
class Shot:
    """The camera's way over one photo."""

    photo: str  # a function of skimage.data
    num_frames: int
    start: View
    end: View


@dataclass(frozen=True)
class Clip:
    name: str
    fps: Fraction
    shots: tuple[Shot, ...]


CLIPS = (
    Clip(
        "v_GGSY1Qvo990.mp4",
        Fraction(25),
        (
            Shot("chelsea", 100, View(232, 108, 210), View(232, 150, 384)),
            Shot("coffee", 100, View(345, 205, 500), View(285, 165, 370)),
        ),
    ),
    Clip(
        "v_ZNVhz7ctTq0.mp4",
        Fraction(30000, 1001),
        (
            Shot("astronaut", 120, View(228, 112, 270), View(256, 200, 500)),
            Shot("rocket", 120, View(320, 265, 400), View(320, 200, 500)),
        ),
    ),
)

# Name of the photo in skimage.data -> name of the file here.
PHOTOS = {"chelsea": "cat.jpg", "coffee": "coffee.jpg", "astronaut": "astronaut.jpg", "rocket": "rocket.jpg"}
PHOTO_WIDTH_PX = 480


def frames(clip: Clip) -> Iterator[np.ndarray]:
    """uint8 (h, w, 3), 0..255, in the order shown."""
    for shot in clip.shots:
        photo = Image.fromarray(getattr(data, shot.photo)())
        for index in range(shot.num_frames):
            yield _seen(photo, _between(shot.start, shot.end, index / (shot.num_frames - 1)))


def _between(start: View, end: View, part: float) -> View:
    """Starts and stops gently (smoothstep); the zoom is even because the width changes by factors."""
    eased = part * part * (3 - 2 * part)
    width_px = start.width_px * (end.width_px / start.width_px) ** eased
    return View(
        start.center_x_px + (end.center_x_px - start.center_x_px) * eased,
        start.center_y_px + (end.center_y_px - start.center_y_px) * eased,
        width_px,
    )


def _seen(photo: Image.Image, view: View) -> np.ndarray:
    height_px = view.width_px * HEIGHT_PX / WIDTH_PX
    left, top = view.center_x_px - view.width_px / 2, view.center_y_px - height_px / 2
    # A float box moves by parts of a pixel; whole pixels would make a slow pan tremble. Outside the photo: ValueError.
    box = (left, top, left + view.width_px, top + height_px)
    return np.asarray(photo.resize((WIDTH_PX, HEIGHT_PX), Image.Resampling.LANCZOS, box=box))


def write_video(clip: Clip, path: Path) -> None:
    """H.264, yuv420p, B-frames, index first: what phones and web sites deliver."""
    # bitexact: no version of the muxer in the file. Without asm=0 (no code of the CPU at hand) x264's rate control
    # gives other bytes on every run, even with one thread.
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=clip.fps)
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        stream.time_base = 1 / clip.fps
        stream.thread_count = 1
        stream.options = {"crf": "24", "preset": "slow", "bf": "3", "g": "48", "x264-params": "threads=1:asm=0"}
        for index, image in enumerate(frames(clip)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, 1 / clip.fps
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_photo(name: str, path: Path) -> None:
    photo = Image.fromarray(getattr(data, name)())
    if photo.width > PHOTO_WIDTH_PX:
        height_px = round(photo.height * PHOTO_WIDTH_PX / photo.width)
        photo = photo.resize((PHOTO_WIDTH_PX, height_px), Image.Resampling.LANCZOS)
    photo.save(path, quality=85, optimize=True)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for clip in CLIPS:
        write_video(clip, folder / clip.name)
    for name, file_name in PHOTOS.items():
        write_photo(name, folder / file_name)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
