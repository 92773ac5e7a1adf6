"""Short films in many containers, with and without sound, and what reading says of parts of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from media.sampling import EveryFrame, Sampler
from media.video import OnDamage, VideoReader
from utils.errors import MediaError

FPS, SOUND_RATE = 10, 44100
TENTHS = range(1, 10)
BARELY_SECONDS = 1  # of which a file may lack the last without that being told


@dataclass(frozen=True)
class Film:
    """How one is written: with PyAV, pictures of noise, silence for sound."""

    video: str
    sound: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    pixels: str = "yuv420p"
    rate: int = SOUND_RATE
    container: str | None = None  # where the name does not tell

    def write(self, path: Path, seconds: int = 4, sound_seconds: int | None = None) -> Path:
        random = np.random.default_rng(0)
        with av.open(str(path), "w", format=self.container, options=self.options) as output:
            video = output.add_stream(self.video, rate=FPS)
            video.width, video.height, video.pix_fmt = 64, 48, self.pixels
            video.codec_context.gop_size = 5
            sound = output.add_stream(self.sound, rate=self.rate) if self.sound else None
            samples = 0
            for number in range(max(seconds, sound_seconds or 0) * FPS):
                if number < seconds * FPS:
                    noise = random.integers(0, 256, (48, 64, 3)).astype(np.uint8)
                    frame = av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format=self.pixels)
                    frame.pts, frame.time_base = number, Fraction(1, FPS)
                    output.mux(video.encode(frame))
                sound_until = min(number + 1, (sound_seconds or seconds) * FPS) * self.rate // FPS
                while sound is not None and samples < sound_until:
                    size = sound.codec_context.frame_size or 1024
                    silence = av.AudioFrame(sound.codec_context.format.name, "stereo", size)
                    for plane in silence.planes:
                        plane.update(bytes(plane.buffer_size))
                    silence.sample_rate, silence.pts, silence.time_base = self.rate, samples, Fraction(1, self.rate)
                    output.mux(sound.encode(silence))
                    samples += size
            for stream in filter(None, (video, sound)):
                output.mux(stream.encode(None))
        return path


FAST, FRAGMENTS = {"movflags": "faststart"}, {"movflags": "frag_keyframe+empty_moov"}
FILMS = {
    "moov_last.mp4": Film("libx264", "aac"),
    "silent.mp4": Film("libx264", options=FAST),
    "sound.mp4": Film("libx264", "aac", FAST),
    "fragments.mp4": Film("libx264", "aac", FRAGMENTS),
    "fast.mov": Film("mpeg4", "pcm_s16le", FAST),
    "silent.mkv": Film("libx264"),
    "sound.mkv": Film("libx264", "aac"),
    "silent.webm": Film("libvpx"),
    "sound.webm": Film("libvpx", "libopus", rate=48000),
    "live.webm": Film("libvpx", "libopus", {"live": "1"}, rate=48000),
    "silent.avi": Film("mpeg4"),
    "sound.avi": Film("mjpeg", "pcm_s16le", pixels="yuvj420p"),
    "silent.gif": Film("gif", pixels="rgb8"),
    "animated.apng": Film("apng", pixels="rgb24", container="apng"),
    "silent.flv": Film("flv1"),
    "sound.flv": Film("flv1", "libmp3lame"),
    "silent.swf": Film("flv1"),
    "sound.swf": Film("flv1", "libmp3lame"),
    "silent.ogv": Film("libvpx", container="ogg"),
    "sound.ogv": Film("libvpx", "libopus", rate=48000, container="ogg"),
    "sound.wmv": Film("wmv2", "libmp3lame", container="asf"),
    "pictures.y4m": Film("wrapped_avframe", container="yuv4mpegpipe"),
    "sound.ts": Film("libx264", "aac", container="mpegts"),
    "sound.mpg": Film("mpeg2video", "mp2", container="vob"),
}


@dataclass(frozen=True)
class Outcome:
    status: str  # "done", "partial" or "failed"
    reason: str = ""
    rows: int = 0
    end_seconds: float = 0.0  # of the last frame that is shown
    warnings: tuple[str, ...] = ()


def outcome(path: Path, sampler: Sampler | None = None, on_damage: OnDamage = "raise") -> Outcome:
    """What a run would say of a file."""
    try:
        with VideoReader(path, on_damage=on_damage, threads=1) as video:
            rows, end = 0, Fraction(0)
            for row in (sampler or EveryFrame()).rows(video):
                rows, end = rows + 1, max(end, row.frame.seconds + row.frame.duration_seconds)
            status, reason = ("partial", video.damage[-1]) if video.damage else ("done", "")
            return Outcome(status, reason, rows, float(end), tuple(video.warnings))
    except MediaError as error:
        return Outcome("failed", str(error))


def cuts(path: Path, folder: Path) -> Iterator[tuple[int, Path]]:
    """The first 1 to 9 tenths of a file, each under its name."""
    data, cut = path.read_bytes(), folder / path.name
    for tenth in TENTHS:
        cut.write_bytes(data[: len(data) * tenth // 10])
        yield tenth, cut
    cut.unlink()
