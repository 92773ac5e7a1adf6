import os
import subprocess
from fractions import Fraction

import imageio_ffmpeg
import numpy as np
import pytest

from media import reencode
from media.reencode import kept_path, through_file, write_rows
from media.sampling import AtFps, Total
from media.video import VideoReader
from tests.helpers.index_clips import make_clip
from utils.errors import MediaError
from utils.types import Row

CLIPS = {
    "plain.mp4": {},
    "odd.mp4": {"size": (65, 47), "pixel_format": "yuv444p"},
    "ten_bit.mp4": {"pixel_format": "yuv420p10le"},
    "turned.mp4": {"turned": {"degrees": 90}},
    "interlaced.mp4": {"options": {"flags": "+ildct+ilme", "x264-params": "tff=1"}},
    "vfr.mkv": {"ticks": [*range(10), *range(10, 40, 3)], "time_base": Fraction(1, 30)},
    'it\'s a "name": 50%d.mp4': {},
}


def collected(rows) -> list[tuple[bytes, int, float, Fraction, Fraction]]:
    return [
        (row.frame.to_rgb().tobytes(), row.frame.index, row.seconds, row.frame.seconds, row.frame.clock_seconds)
        for row in rows
    ]


@pytest.mark.parametrize("sampler", [AtFps(Fraction("29.97")), AtFps(Fraction(5)), Total(3)])
@pytest.mark.parametrize("name", CLIPS)
def test_the_same_rows_come_back(tmp_path, name, sampler):
    path = make_clip(tmp_path / name, left_bright=True, **CLIPS[name])
    target = kept_path(tmp_path / "tmp", path.stem)
    with VideoReader(path) as video:
        expected = collected(sampler.rows(video))
    with VideoReader(path) as video:
        found = collected(through_file(sampler.rows(video), target, rate=sampler.rate(video)))
    assert found == expected
    assert os.listdir(target.parent) == [f"{path.stem}_new_fps.mp4"]
    with VideoReader(target) as video:
        assert video.info.fps == pytest.approx(float(sampler.rate(video)) if sampler != Total(3) else video.info.fps)


def test_selection_is_that_of_the_ffmpeg_program(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", 50)
    program = imageio_ffmpeg.get_ffmpeg_exe()
    command = [program, "-loglevel", "error", "-nostdin", "-i", str(path), "-vf", "fps=4", "-fps_mode", "passthrough"]
    output = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    with VideoReader(path) as video:
        rows = list(through_file(AtFps(Fraction(4)).rows(video), tmp_path / "out.mp4", rate=Fraction(4)))
    assert b"".join(row.frame.to_rgb().tobytes() for row in rows) == output.stdout


class Picture:
    index, seconds, clock_seconds, duration_seconds = 0, Fraction(0), Fraction(0), Fraction(1)

    def __init__(self, height: int, width: int) -> None:
        self._size = height, width

    def to_rgb(self) -> np.ndarray:
        return np.zeros((*self._size, 3), np.uint8)


def test_frames_that_change_size_are_refused(tmp_path):
    rows = iter([Row(Picture(8, 8), 0.0), Row(Picture(8, 16), 1.0)])
    with pytest.raises(MediaError, match="8x8 to 16x8"):
        write_rows(rows, tmp_path / "x.mp4", rate=Fraction(1))
    assert os.listdir(tmp_path) == []


def test_what_ffmpeg_says_is_passed_on(tmp_path, monkeypatch):
    monkeypatch.setattr(reencode, "_ENCODER", {"vcodec": "no_such_encoder"})
    with pytest.raises(MediaError, match=r"x\.mp4: ffmpeg could not write it \(.*\)"):
        write_rows(iter([Row(Picture(480, 640), 0.0)] * 20), tmp_path / "x.mp4", rate=Fraction(1))
    assert os.listdir(tmp_path) == []


def test_interrupt_leaves_no_process_and_no_file(tmp_path, monkeypatch):
    started = []
    real = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *args, **kwargs: started.append(real(*args, **kwargs)) or started[-1]
    )

    def rows():
        yield Row(Picture(8, 8), 0.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(rows(), tmp_path / "x.mp4", rate=Fraction(1))
    assert [process.poll() is not None for process in started] == [True]
    assert os.listdir(tmp_path) == []
