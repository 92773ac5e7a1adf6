"""What files of others may not do: keep a reader waiting, open other files, ask for more than they are worth."""

import io
import os
import resource
import socket
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import pytest
from PIL import Image

from extraction.options import FrameOptions
from extraction.preprocess import Preprocess
from extraction.rows import ImageRows, VideoRows
from media.images import load_image, open_image
from media.limits import DEFAULT_LIMITS, Limits
from media.packets import scan
from media.sampling import AtFps, EveryFrame, Sampler, Total
from media.video import VideoReader
from tests.helpers.index_clips import make_clip
from utils.errors import MediaError, UserError
from utils.types import Item

READERS = [VideoReader, scan, open_image, load_image]


def read_rows(path: Path, sampler: Sampler, limits: Limits = DEFAULT_LIMITS) -> tuple[int, str]:
    """How many rows came, and what was wrong then."""
    rows = 0
    try:
        with VideoReader(path, threads=1, limits=limits) as video:
            for row in sampler.rows(video):
                row.frame.to_rgb()
                rows += 1
    except MediaError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017
        return rows, str(error).removeprefix(f"{path}: ")
    return rows, ""


def in_one_line(caught: pytest.ExceptionInfo[MediaError], path: Path) -> None:
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("read", READERS)
def test_special_files_are_refused_at_once(tmp_path: Path, read) -> None:
    os.mkfifo(tmp_path / "x.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "x.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.mp4"))
        for name, found in (
            ("x.mp4", "a named pipe"),
            ("link.mp4", "a named pipe"),
            ("s.mp4", "a socket"),
            ("folder.mp4", "a folder"),
            ("/dev/zero", "a device"),
        ):
            with pytest.raises(MediaError, match=f"expected an? (video|image) file, found {found}") as caught:
                read(tmp_path / name)
            in_one_line(caught, tmp_path / name)


PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile clip.mp4\n",
    "concat_whole": "ffconcat version 1.0\nfile 'file:{folder}/clip.mp4'\n",
    "concat_itself": "ffconcat version 1.0\nfile 'fd:'\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nclip.mp4\n#EXT-X-ENDLIST\n",
    "hls_ts": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nfile:{folder}/clip.ts\n#EXT-X-ENDLIST\n",
    "hls_net": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 32\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>clip.mp4</BaseURL></MPD>',
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_playlists_open_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    make_clip(tmp_path / "clip.mp4", 3)
    make_clip(tmp_path / "clip.ts", 3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        text = PLAYLISTS[kind].replace("{folder}", str(tmp_path)).replace("{port}", str(server.getsockname()[1]))
        for name in ("list.mp4", "list.m3u8", "list.ffconcat", "list.sdp", "list.mpd"):
            (tmp_path / name).write_text(text)
            with pytest.raises(MediaError, match=r"found text.* Playlists are not followed") as caught:
                VideoReader(tmp_path / name)
            in_one_line(caught, tmp_path / name)
        with pytest.raises(BlockingIOError):  # nobody has called
            server.accept()


def test_numbered_pictures_are_no_sequence(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (16, 16)).save(tmp_path / f"x{number}.jpg")
    Image.new("RGB", (32, 16)).save(tmp_path / "x%d.jpg")
    with VideoReader(tmp_path / "x%d.jpg") as video:
        assert [frame.to_rgb().shape for frame in video.frames()] == [(16, 32, 3)]


def test_frames_of_too_many_pixels(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", 3)
    small = Limits(max_frame_megapixels=0.001)
    expected = r"its frames have 64 x 48 pixels, more than max_frame_megapixels=0\.001 allows"
    with pytest.raises(MediaError, match=expected) as caught:
        VideoReader(path, limits=small)
    in_one_line(caught, path)
    with pytest.raises(MediaError, match=expected):
        scan(path, small)


def black_png(width: int, height: int) -> bytes:
    """Small files of large pictures."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packing = zlib.compressobj(9)
    pixels = b"".join(packing.compress(bytes(1 + width)) for _ in range(height)) + packing.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", pixels) + part(b"IEND", b"")


def png_video(path: Path, pictures: list[bytes]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "gray"
        for number, picture in enumerate(pictures):
            packet = av.Packet(picture)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1)
            container.mux(packet)
    return path


def test_frames_that_grow_on_the_way_are_not_decoded(tmp_path: Path) -> None:
    path = png_video(tmp_path / "x.mp4", [black_png(32, 16)] * 3 + [black_png(12_000, 12_000)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows, wrong = read_rows(path, EveryFrame())
    assert rows == 3
    assert "after 3 frames" in wrong
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB: 144 megapixels would not fit


def test_sizes_may_change_within_the_limits(tmp_path: Path) -> None:
    path = png_video(tmp_path / "x.mp4", [black_png(32, 16), black_png(640, 480)])
    with VideoReader(path) as video:
        assert [frame.to_rgb().shape[:2] for frame in video.frames()] == [(16, 32), (480, 640)]


def bomb(width: int, height: int, frames: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + bytes(3) + b"\xff" * 3
    frame = b"!\xf9\x04\0\x0a\0\0\0," + struct.pack("<HHHH", 0, 0, width, height) + b"\0\x02\x02\x44\x01\0"
    return head + frame * frames + b";"


@pytest.mark.timeout(20)
def test_a_small_animation_of_many_pixels(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gif"
    path.write_bytes(bomb(10_000, 10_000, 2_000))
    expected = "2000 frames of 10000 x 10000 pixels are more than max_animation_megapixels=10000 allows"
    for read in (open_image, VideoReader):
        with pytest.raises(MediaError, match=expected) as caught:
            read(path)
        in_one_line(caught, path)
    frames = [Image.effect_noise((50, 50), 50) for _ in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(MediaError, match=r"3 frames of 50 x 50 .* max_animation_megapixels=0\.007"):
        open_image(path, limits=Limits(max_animation_megapixels=0.007))
    with open_image(path, limits=Limits(max_animation_megapixels=0.0075)) as image:
        assert len(list(image)) == 3


def avi(path: Path, scale: int, rate: int) -> Path:
    """A hundred frames at rate / scale a second, as its header says."""
    make_clip(path, 100, codec="mpeg4", options={"qmin": "1", "qmax": "1"})
    data = path.read_bytes()
    at = data.index(b"strh") + 8 + 20
    path.write_bytes(data[:at] + struct.pack("<II", scale, rate) + data[at + 8 :])
    return path


@pytest.mark.timeout(20)
@pytest.mark.parametrize("sampler", [EveryFrame(), AtFps(Fraction(1)), Total(5)])
def test_a_video_of_many_hours(tmp_path: Path, sampler) -> None:
    path = avi(tmp_path / "slow.avi", 786_433, 25)
    assert read_rows(path, sampler) == (
        0,
        "lasts 873.8 hours by its time stamps, more than max_video_hours=48 allows",
    )
    with VideoReader(path, limits=Limits(max_video_hours=1000)) as video:
        assert next(iter(sampler.rows(video))).seconds == 0


@pytest.mark.parametrize(("scale", "rate"), [(0, 0), (0, 1), (1, 0), (1, 2**32 - 1), (2**32 - 1, 1), (2**31, 2**31)])
def test_absurd_rates(tmp_path: Path, scale: int, rate: int) -> None:
    path = avi(tmp_path / "x.avi", scale, rate)
    for sampler in (EveryFrame(), AtFps(Fraction(1)), Total(5)):
        rows, wrong = read_rows(path, sampler)
        assert rows <= 100
        assert rows or wrong


def test_stamps_that_leap(tmp_path: Path) -> None:
    """The header says nothing of it: noticed when it comes, before a row is made for every second."""
    path = make_clip(
        tmp_path / "x.mkv",
        5,
        ticks=[0, 40, 80, 10**9, 10**9 + 40],
        time_base=Fraction(1, 1000),
        codec="mjpeg",
        pixel_format="yuvj420p",
    )
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3
    path.write_bytes((data[:at] + struct.pack(">d", 5000.0) + data[at + 8 :]).replace(b"DURATION", b"duration"))
    rows, wrong = read_rows(path, AtFps(Fraction(1)))
    assert rows <= 3
    assert wrong.startswith("lasts 277.8 hours")


def test_too_many_rows(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", 50)
    for sampler, asked in ((AtFps(Fraction(1_000_000)), 2_000_000), (EveryFrame(), 50)):
        wrong = f"asks for {asked} rows, more than max_rows=40 allows: ask for fewer, or raise it"
        assert read_rows(path, sampler, Limits(max_rows=40)) == (0, wrong)
    assert read_rows(path, EveryFrame(), Limits(max_rows=50)) == (50, "")
    with pytest.raises(UserError, match="extraction_total=41: more than max_rows=40 allows"):
        FrameOptions(extraction_total=41, limits=Limits(max_rows=40))


def test_a_header_that_promises_millions_of_frames_is_not_believed(tmp_path: Path) -> None:
    """Neither refused nor waited for: what the packets hold counts, and what is asked of them is told in rows."""
    path = make_clip(tmp_path / "x.avi", 100, codec="mpeg4", options={"qmin": "1", "qmax": "1"})
    data = path.read_bytes()
    at = data.index(b"strh") + 8 + 32
    assert struct.unpack("<I", data[at : at + 4]) == (100,)
    path.write_bytes(data[:at] + struct.pack("<I", 50_000_000) + data[at + 4 :])
    assert [read_rows(path, sampler)[0] for sampler in (EveryFrame(), AtFps(Fraction(1)), Total(5))] == [100, 4, 5]
    wrong = "asks for 4000000000 rows, more than max_rows=10000000 allows: ask for fewer, or raise it"
    assert read_rows(path, AtFps(Fraction(10**9))) == (0, wrong)


@pytest.mark.parametrize("key", ["max_frame_megapixels", "max_animation_megapixels", "max_video_hours", "max_rows"])
@pytest.mark.parametrize("value", [0, -1, "many", None, float("nan"), True])
def test_limits_are_numbers(key: str, value: object) -> None:
    with pytest.raises(UserError, match=f"{key}="):
        Limits(**{key: value})


@pytest.mark.timeout(20)
@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_pictures_too_narrow_to_resize(tmp_path: Path, mode) -> None:
    """The short side of 1 x 100,000 at 224 would be a long side of 22,400,000."""
    preprocess = Preprocess(224, mode)
    Image.new("RGB", (1, 100_000)).save(tmp_path / "x.png")
    expected = "1 x 100000 pixels are too narrow for resize=crop; use resize=squash, or cut a part out"
    with pytest.raises(MediaError, match=expected) as caught:
        list(ImageRows(preprocess).read(Item(tmp_path / "x.png", "x")))
    in_one_line(caught, tmp_path / "x.png")
    path = png_video(tmp_path / "x.mp4", [black_png(1, 60_000)])
    with pytest.raises(MediaError, match="1 x 60000 pixels are too narrow") as caught:
        list(VideoRows(preprocess, EveryFrame()).read(Item(path, "x")))
    in_one_line(caught, path)
    squashed = Preprocess(224, mode, resize="squash")
    assert len(list(ImageRows(squashed).read(Item(tmp_path / "x.png", "x")))) == 3


def test_an_image_file_of_too_many_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.touch()
    os.truncate(path, 1 << 40)  # which takes no room on the disk
    with pytest.raises(MediaError, match=r"x\.png: 1024\.0 GB are too many for an image file, the limit is 4 GB"):
        open_image(path)


def test_limits_reach_what_is_read(tmp_path: Path) -> None:
    clip, gif = make_clip(tmp_path / "clip.mp4", 5), tmp_path / "x.gif"
    Image.new("L", (50, 50)).save(gif, save_all=True, append_images=[Image.effect_noise((50, 50), 9)])
    limits = Limits(max_rows=4, max_animation_megapixels=0.001)
    with pytest.raises(MediaError, match="max_rows=4"):
        list(VideoRows(Preprocess(32), EveryFrame(), limits=limits).read(Item(clip, "x")))
    with pytest.raises(MediaError, match=r"max_animation_megapixels=0\.001"):
        list(ImageRows(Preprocess(32), limits=limits).read(Item(gif, "x")))


def test_a_jpeg_with_an_orientation_can_be_read_as_a_video(tmp_path: Path) -> None:
    """PyAV 18 raises at the EXIF data that FFmpeg 8 hands on with the frame."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (32, 16)).save(file := io.BytesIO(), "JPEG", exif=exif)
    (tmp_path / "x.jpg").write_bytes(file.getvalue())
    with VideoReader(tmp_path / "x.jpg") as video:
        assert next(video.frames()).to_rgb().shape == (32, 16, 3)
