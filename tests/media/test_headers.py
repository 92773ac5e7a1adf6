"""What files say of themselves, against what is in them."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from media import headers
from media.headers import video_header
from media.images import frames_by_header, open_image
from media.limits import Limits
from media.packets import scan
from tests.helpers.shared_data import ROOT
from utils.errors import MediaError

VIDEOS = sorted((ROOT / "sample").glob("*.mp4"))


@pytest.mark.parametrize("path", VIDEOS, ids=lambda path: path.stem)
def test_headers_of_videos(path: Path) -> None:
    header, extent = video_header(path), scan(path)
    assert header.num_frames == extent.num_frames
    assert header.seconds == pytest.approx(float(extent.duration_seconds), rel=0.02)
    assert header.pixels > 0


@pytest.mark.parametrize("said", [{"num_frames": 10**7}, {"num_frames": None}, {"duration_seconds": None}])
def test_packets_are_counted_where_a_header_cannot_be_right(said: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    read_header = headers.read_header
    monkeypatch.setattr(headers, "read_header", lambda *given: replace(read_header(*given), **said))
    header, extent = video_header(VIDEOS[0]), scan(VIDEOS[0])
    assert (header.num_frames, header.seconds) == (extent.num_frames, float(extent.duration_seconds))


def test_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, reason in (
        ("text.mp4", "cannot be opened as a video"),
        ("pipe.mp4", "named pipe"),
        ("x", "no such file"),
    ):
        for read in (video_header, frames_by_header):
            with pytest.raises(
                MediaError, match=reason if read is video_header or name != "text.mp4" else "not an image"
            ):
                read(tmp_path / name)
    with pytest.raises(MediaError, match="max_video_hours"):
        video_header(VIDEOS[0], Limits(max_video_hours=0.001))


@pytest.mark.parametrize(
    ("ending", "options"), [("gif", {}), ("webp", {}), ("png", {}), ("png", {"default_image": True})]
)
def test_frames_of_animations(tmp_path: Path, ending: str, options: dict) -> None:
    pictures = [Image.new("RGB", (8, 8), (50 * k, 0, 0)) for k in range(4)]
    path = tmp_path / f"x.{ending}"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100, **options)
    with open_image(path) as image:
        assert frames_by_header(path) == image.facts["frames"] == 4 - len(options)


def test_a_still_picture_and_several_pages_are_one_frame(tmp_path: Path) -> None:
    assert frames_by_header(ROOT / "sample" / "cat.jpg") == 1
    Image.new("L", (8, 8)).save(tmp_path / "x.tif", save_all=True, append_images=[Image.new("L", (8, 8))])
    assert frames_by_header(tmp_path / "x.tif") == 1
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(MediaError, match="an empty file, 0 bytes"):
        frames_by_header(tmp_path / "empty.png")
