"""Small whole files of every kind that the project reads, made in code: what `tests.fuzz.media` damages."""

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

WIDTH, HEIGHT, RATE, FRAMES = 64, 48, 10, 35  # 3.5 s: what lacks its last second differs from what lacks more
# Name -> container, codec, pixel format, its options, codec of the sound.
VIDEOS: dict[str, tuple[str, str, str, dict[str, str], str | None]] = {
    "h264.mp4": ("mp4", "libx264", "yuv420p", {}, None),
    "h264_sound.mp4": ("mp4", "libx264", "yuv420p", {"movflags": "faststart"}, "aac"),
    "h264_fragments.mp4": ("mp4", "libx264", "yuv420p", {"movflags": "frag_keyframe+empty_moov", "g": "10"}, None),
    "hevc.mp4": ("mp4", "libx265", "yuv420p", {"x265-params": "log-level=none"}, None),
    "png.mov": ("mov", "png", "rgb24", {}, None),
    "prores.mov": ("mov", "prores", "yuv422p10le", {}, None),
    "h263.3gp": ("3gp", "h263", "yuv420p", {"size": "176x144"}, None),
    "h264.mkv": ("matroska", "libx264", "yuv420p", {}, None),
    "ffv1_sound.mkv": ("matroska", "ffv1", "yuv420p", {}, "libmp3lame"),
    "vp8_sound.webm": ("webm", "libvpx", "yuv420p", {"deadline": "realtime"}, "libopus"),
    "vp9.webm": ("webm", "libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}, None),
    "mpeg4.avi": ("avi", "mpeg4", "yuv420p", {}, None),
    "mjpeg_sound.avi": ("avi", "mjpeg", "yuvj420p", {}, "mp2"),
    "mpeg2_sound.ts": ("mpegts", "mpeg2video", "yuv420p", {"rate": "25"}, "mp2"),
    "h264.ts": ("mpegts", "libx264", "yuv420p", {}, None),
    "mpeg1.mpg": ("mpeg", "mpeg1video", "yuv420p", {"rate": "25"}, None),
    "flv1.flv": ("flv", "flv", "yuv420p", {}, None),
    "wmv2_sound.wmv": ("asf", "wmv2", "yuv420p", {}, "libmp3lame"),
    "flash.swf": ("swf", "flv", "yuv420p", {}, None),
    "vp8.ogv": ("ogg", "libvpx", "yuv420p", {"deadline": "realtime"}, None),
    "raw.y4m": ("yuv4mpegpipe", "rawvideo", "yuv420p", {}, None),
    "mpeg2.mxf": ("mxf", "mpeg2video", "yuv420p", {"rate": "25"}, None),
    "bare.h264": ("h264", "libx264", "yuv420p", {}, None),
    "video.gif": ("gif", "gif", "rgb8", {}, None),
}
STILLS = {
    "still.jpg": {},
    "progressive.jpg": {"progressive": True},
    "still.png": {},
    "still.webp": {"quality": 70},
    "lossless.webp": {"lossless": True},
    "still.gif": {},
    "still.bmp": {},
    "lzw.tif": {"compression": "tiff_lzw"},
    "deflate.tif": {"compression": "tiff_adobe_deflate"},
    "still.avif": {"quality": 60, "speed": 10},
    "still.jp2": {},
    "still.ico": {},
    "still.tga": {"compression": "tga_rle"},
    "still.ppm": {},
    "still.pcx": {},
    "still.sgi": {},
    "still.dds": {},
}
ANIMATED = {"moving.gif": {}, "moving.webp": {"quality": 60}, "moving.png": {}, "moving.avif": {"speed": 10}}
MODES = {
    "gray.png": "L",
    "palette.png": "P",
    "one_bit.png": "1",
    "deep.png": "I;16",
    "cmyk.jpg": "CMYK",
    "la.png": "LA",
}


def picture(number: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    """uint8 (h, w, 3): a slope that moves, with a little noise, so that every frame has something to say."""
    across = np.add.outer(np.arange(size[1]), 2 * np.arange(size[0])) + 5 * number
    noise = np.random.default_rng(number).integers(0, 40, (*across.shape, 3))
    return ((across[..., None] + noise) % 256).astype(np.uint8)


def write_videos(folder: Path, names: list[str] | None = None) -> Iterator[Path]:
    for name in names or VIDEOS:
        write_video(folder / name, *VIDEOS[name])
        yield folder / name


def write_video(
    path: Path, container: str, codec: str, pixels: str, options: dict[str, str], sound: str | None
) -> None:
    rate = int(options.get("rate", RATE))
    size = (176, 144) if "size" in options else (WIDTH, HEIGHT)
    own = {key: value for key, value in options.items() if key not in ("rate", "size", "movflags")}
    of_container = {"movflags": options["movflags"]} if "movflags" in options else {}
    with av.open(str(path), "w", format=container, container_options=of_container) as file:
        stream = file.add_stream(codec, rate=rate, options=own)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        audio = file.add_stream(sound, rate=48000 if sound == "libopus" else 44100) if sound else None
        for number in range(FRAMES * rate // RATE):
            frame = av.VideoFrame.from_ndarray(picture(number, size), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            file.mux(stream.encode(frame))
            if audio:
                file.mux(audio.encode(_silence(number, audio.rate, rate)))
        for each in (stream, audio) if audio else (stream,):
            file.mux(each.encode(None))


def _silence(number: int, sample_rate: int, rate: int) -> av.AudioFrame:
    samples = sample_rate // rate
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 2 * samples), np.int16), format="s16", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, number * samples, Fraction(1, sample_rate)
    return frame


def write_images(folder: Path) -> Iterator[Path]:
    frames = [Image.fromarray(picture(number)) for number in range(4)]
    for name, options in STILLS.items():
        frames[0].save(folder / name, **options)
        yield folder / name
    for name, options in ANIMATED.items():
        frames[0].save(folder / name, save_all=True, append_images=frames[1:], duration=200, **options)
        yield folder / name
    for name, mode in MODES.items():
        changed = Image.fromarray(picture(0)[..., 0].astype(np.uint16) * 200) if mode == "I;16" else None
        (changed or frames[0].convert(mode)).save(folder / name)
        yield folder / name
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    frames[0].save(buffer, "JPEG", exif=exif)
    (folder / "turned.jpg").write_bytes(buffer.getvalue())
    yield folder / "turned.jpg"
