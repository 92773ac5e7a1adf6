import gc
import io
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from media.container import Clock, Header, PtsOrDts
from media.packets import scan
from media.rgb import turn_filters
from media.sampling import nearest
from media.video import VideoReader
from tests.helpers.index_clips import index_of, make_clip
from tests.helpers.shared_data import ROOT
from utils.errors import MediaError

MPEG4 = {"codec": "mpeg4", "options": {"qmin": "1", "qmax": "1"}}
VFR = [*range(10), *range(10, 40, 3)]
CLIPS = {
    "cfr.mp4": {},
    "b_frames.mp4": {"options": {"bf": "3", "x264-params": "b-pyramid=normal"}},
    "vfr.mp4": {"ticks": VFR, "time_base": Fraction(1, 30)},
    "start.mkv": {"ticks": range(5000, 5800, 40), "time_base": Fraction(1, 1000)},
    "stream.ts": {},
    "mpeg4.avi": MPEG4,
    "vp8.webm": {"codec": "libvpx"},
    "odd.webm": {"codec": "libvpx-vp9", "size": (63, 47)},
    "odd_444.mp4": {"size": (65, 47), "pixel_format": "yuv444p"},
    "one.mp4": {"num_frames": 1},
    "12:30.mp4": {},
    "-dash.mp4": {},
    "no_extension": {},
}


@pytest.mark.parametrize("name", CLIPS)
def test_every_frame_at_its_time(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    kwargs = CLIPS[name]
    if name == "no_extension":
        make_clip(tmp_path / "x.mp4").rename(tmp_path / name)
    else:
        make_clip(tmp_path / name, **kwargs)
    num_frames = kwargs.get("num_frames", 20)
    base = kwargs.get("time_base", Fraction(1, 25))
    ticks = kwargs.get("ticks", range(20))
    with VideoReader(name) as video:
        frames = list(video.frames())
        assert [index_of(frame.to_rgb()) for frame in frames] == list(range(num_frames))
        expected = [(tick - ticks[0]) * base for tick in ticks][:num_frames]
        assert [float(frame.seconds) for frame in frames] == pytest.approx([float(t) for t in expected], abs=1e-3)
        assert [float(frame.clock_seconds) for frame in frames] == pytest.approx([float(t) for t in expected], abs=1e-3)
        size = kwargs.get("size", (64, 48))
        assert (video.info.width_px, video.info.height_px) == size
        assert all(frame.to_rgb().shape == (size[1], size[0], 3) for frame in frames)
        assert video.warnings == video.damage == []
        assert video.extent().num_frames == num_frames
        if "ticks" not in kwargs:
            assert video.info.fps == 25
            assert video.extent().duration_seconds == pytest.approx(num_frames / 25, abs=2e-3)


@pytest.mark.parametrize("mirrored", [{}, {"hflip": True}])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_turned_as_displayed(tmp_path, degrees, mirrored):
    turned = {"degrees": degrees, **mirrored}
    make_clip(tmp_path / "turned.mp4", 1, left_bright=True, turned=turned)
    make_clip(tmp_path / "plain.mp4", 1, left_bright=True)
    with VideoReader(tmp_path / "plain.mp4") as video:
        plain = next(video.frames()).to_rgb()
    with VideoReader(tmp_path / "turned.mp4") as video:
        rgb = next(video.frames()).to_rgb()
        assert (video.info.height_px, video.info.width_px, 3) == rgb.shape
    expected = np.rot90(plain, k=degrees // 90)
    np.testing.assert_array_equal(rgb, expected[:, ::-1] if mirrored else expected)


def test_turns_as_the_ffmpeg_program():
    one = 1 << 16
    turns = {  # (a, b, c, d) of the display matrix
        (1, 0, 0, 1): (),
        (0, 1, -1, 0): (("transpose", "dir=clock"),),
        (0, -1, 1, 0): (("transpose", "dir=cclock"),),
        (0, 1, 1, 0): (("transpose", "dir=cclock_flip"),),
        (0, -1, -1, 0): (("transpose", "dir=clock_flip"),),
        (-1, 0, 0, -1): (("hflip", ""), ("vflip", "")),
        (1, 0, 0, -1): (("vflip", ""),),
    }
    for (a, b, c, d), filters in turns.items():
        assert turn_filters((a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)) == filters
    assert turn_filters((46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30)) is None  # 45 degrees


def test_other_turns_are_warned_of_and_left(tmp_path):
    """45 degrees: FFmpeg's own player would have to invent the corners."""
    make_clip(tmp_path / "turned.mp4", 1, left_bright=True, turned={"degrees": 45})
    make_clip(tmp_path / "plain.mp4", 1, left_bright=True)
    with VideoReader(tmp_path / "plain.mp4") as video:
        plain = next(video.frames()).to_rgb()
        assert video.warnings == []
    with VideoReader(tmp_path / "turned.mp4") as video:
        assert video.warnings == ["asks to be turned by 45 degrees: only multiples of 90 are applied"]
        assert (video.info.rotation_degrees, video.info.width_px, video.info.height_px) == (0, 64, 48)
        np.testing.assert_array_equal(next(video.frames()).to_rgb(), plain)


def test_decoder_threads_change_nothing(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", 60, options={"bf": "2"}, left_bright=True)
    pixels = []
    for threads in (1, 4):
        with VideoReader(path, threads=threads) as video:
            pixels.append(np.stack([frame.to_rgb() for frame in video.frames()]))
    np.testing.assert_array_equal(*pixels)


def test_rgb_is_made_once(clip):
    with VideoReader(clip) as video:
        frame = next(video.frames())
        assert frame.to_rgb() is frame.to_rgb()


def test_frames_outlive_the_reader_and_convert_on_other_threads(clip):
    with VideoReader(clip) as video:
        frames = list(video.frames())
    found: dict[int, int] = {}
    threads = [threading.Thread(target=lambda f=f: found.update({f.index: index_of(f.to_rgb())})) for f in frames]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: i for i in range(20)}


def test_pictures_are_let_go_without_the_garbage_collector(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", 60, turned={"degrees": 90})
    gc.collect()
    gc.disable()
    try:
        with VideoReader(path) as video:
            for frame in video.frames():
                frame.to_rgb()
            alive = sum(type(each) is av.VideoFrame for each in gc.get_objects())
    finally:
        gc.enable()
    assert alive < 10  # of 60: the first, which is looked at for how the video is turned, and what is at hand


def test_one_pass(clip):
    with VideoReader(clip) as video:
        frames = video.frames()
        next(frames)
        frames.close()
        with pytest.raises(RuntimeError, match="once"):
            next(video.frames())


def test_cut_short(tmp_path):
    whole = make_clip(tmp_path / "whole.mp4", 100, left_bright=True)  # pictures that take some bytes
    fast = tmp_path / "fast.mp4"
    with av.open(str(whole)) as source, av.open(str(fast), "w", options={"movflags": "faststart"}) as to:
        stream = to.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                to.mux(packet)
    data = fast.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: int(len(data) * 0.8)])
    with VideoReader(cut) as video, pytest.raises(MediaError, match=r"cut.mp4: damaged at .* on_error=partial"):
        list(video.frames())
    with VideoReader(cut, on_damage="keep") as video:
        num_frames = len(list(video.frames()))
        assert 0 < num_frames < 100
        assert "damaged at" in video.damage[0]
        assert video.damage[-1].startswith("ends early: its header says 4.00 s, found ")
        assert video.damage[-1].endswith(f" s ({num_frames} frames)")


@pytest.mark.parametrize("content", [b"", b"hello\n" * 50, bytes(range(256)) * 20])
def test_no_video(tmp_path, content):
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"x\.mp4: cannot be opened") as caught:
        VideoReader(path)
    assert "\n" not in str(caught.value)


def test_text_is_not_drawn(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("folder/some video.mp4\n" * 200)
    with pytest.raises(MediaError, match="file_with_video_paths"):
        VideoReader(path)


def test_folder_and_missing(tmp_path):
    with pytest.raises(MediaError, match="found a folder"):
        VideoReader(tmp_path)
    with pytest.raises(MediaError, match="no such file"):
        scan(tmp_path / "gone.mp4")


def test_clock_joins_stamps_that_start_anew():
    clock = Clock(Header(Fraction(1, 10), start_seconds=Fraction(1)))
    stamps = [clock.frame(pts, 1) for pts in (10, 11, 12, 10, 11)]
    assert [stamp.seconds * 10 for stamp in stamps] == [0, 1, 2, 0, 1]
    assert [stamp.clock_seconds * 10 for stamp in stamps] == [0, 1, 2, 3, 4]
    assert clock.restarts == [Fraction(3, 10)]


def test_clock_holds_jitter_and_counts_on_without_stamps():
    clock = Clock(Header(Fraction(1, 100)))
    assert [clock.frame(pts, 4).clock_seconds * 100 for pts in (0, 8, 4, 12)] == [0, 8, 8, 12]
    bare = Clock(Header(Fraction(1, 1_200_000)))
    assert [bare.frame(None, 100_000).seconds for _ in range(3)] == [Fraction(83_333 * i, 10**6) for i in range(3)]


def test_pts_are_believed_until_they_fail_more_often_than_dts():
    stamps = PtsOrDts()
    assert [stamps.best(*pair) for pair in [(0, 0), (None, 1), (2, 2), (9, 3), (4, 4), (10, 5)]] == [0, 1, 2, 9, 4, 5]


def test_halves_go_away_from_zero():
    assert [nearest(Fraction(x, 2)) for x in (-3, -1, 0, 1, 3, 4)] == [-2, -1, 0, 1, 2, 2]


def test_a_picture_with_a_colour_profile_ends_nothing(tmp_path: Path) -> None:
    """PyAV 18 frees such a profile's name twice once somebody has looked at it: signal 11."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (32, 16), "red").save(png := io.BytesIO(), "PNG", icc_profile=profile)
    with av.open(str(tmp_path / "png.mp4"), "w") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "rgb24"
        packet = av.Packet(png.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1)
        container.mux(packet)
    code = (
        "import gc, sys; from media.video import VideoReader\n"
        "with VideoReader(sys.argv[1]) as video: shapes = [frame.to_rgb().shape for frame in video.frames()]\n"
        "gc.collect(); print(shapes)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "png.mp4")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[(16, 32, 3)]\n"), done.stderr
