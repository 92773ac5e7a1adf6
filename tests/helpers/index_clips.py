"""Index clips: frame i < 110 has uniform luma 16 + 2i, so that a picture tells which frame it is."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np


def index_of(rgb: np.ndarray) -> int:
    """Which frame of an index clip this is (luma 16..235 becomes grey 0..255)."""
    return round(float(rgb.mean()) * 219 / 255 / 2)


def make_clip(
    path: Path,
    num_frames: int = 20,
    *,
    fps: int | Fraction = 25,
    ticks: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    turned: dict[str, Any] | None = None,
    left_bright: bool = False,
) -> Path:
    """Writes an index clip; `ticks` are its time stamps in `time_base` (default: every 1/fps from 0)."""
    with av.open(f"file:{path.absolute()}", "w", format={".ts": "mpegts"}.get(path.suffix)) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        stream.time_base = stream.codec_context.time_base = time_base or 1 / Fraction(fps)
        if turned:
            stream.set_display_rotation(**turned)
        for i in range(num_frames):
            luma = np.full((size[1], size[0]), 16 + 2 * (i % 110), np.uint8)
            if left_bright:
                luma[:, : size[0] // 2] = 200
            grey = av.VideoFrame.from_ndarray(luma, format="gray").reformat(format="yuvj420p")
            frame = grey.reformat(format=pixel_format, src_color_range=2, dst_color_range=2)
            frame.pts, frame.time_base = ticks[i] if ticks else i, stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
