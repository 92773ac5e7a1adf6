"""Reading on from a row: the same rows to the bit, and no more decoded than that needs."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from media.sampling import AtFps, EveryFrame, Sampler, Total
from media.video import VideoReader
from tests.helpers.index_clips import make_clip
from tests.helpers.shared_data import ROOT

FRAMES = 60
CLIPS = {
    "closed.mp4": {"codec": "libx264", "options": {"g": "10", "bf": "3", "threads": "1"}},
    "open.mp4": {"codec": "libx264", "options": {"x264-params": "open-gop=1:keyint=12:bframes=3", "threads": "1"}},
    "h264.mkv": {"codec": "libx264", "options": {"g": "10", "bf": "3", "threads": "1"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "keyint=10:open-gop=1:log-level=none"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "10", "cpu-used": "8"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "10", "bf": "2"}},
}
SAMPLERS: list[Sampler] = [EveryFrame(), AtFps(Fraction(5)), AtFps(Fraction(30)), AtFps(Fraction(1, 2)), Total(7)]
SKIPS = [1, 2, 11, 25, 59, 60, 70]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {name: make_clip(folder / name, FRAMES, **options) for name, options in CLIPS.items()}


def rows_of(path: Path, sampler: Sampler, skip: int, **options: Any) -> tuple[list[tuple], list[str], int]:
    """Rows with their pictures, all that was told, and how many frames were decoded."""
    with VideoReader(path, **options) as video:
        decoded, decode = [], video._decode

        def counted(*arguments: int) -> Any:
            for picture in decode(*arguments):
                decoded.append(picture.pts)
                yield picture

        video._decode = counted  # type: ignore[method-assign]
        found = []
        for row in sampler.rows(video, skip=skip):
            frame = row.frame
            found.append((frame.index, frame.seconds, frame.clock_seconds, row.seconds, frame.to_rgb().tobytes()))
        return found, [*video.warnings, *video.damage], len(decoded)


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_rows_go_on_where_they_stopped(name: str, sampler: Sampler, clips: dict[str, Path]) -> None:
    rows, told, _ = rows_of(clips[name], sampler, 0)
    for skip in SKIPS:
        assert rows_of(clips[name], sampler, skip)[:2] == (rows[skip:], told)


@pytest.mark.parametrize("name", [name for name in CLIPS if name not in ("open.mp4", "mpeg4.avi")])
def test_only_what_follows_is_decoded(name: str, clips: dict[str, Path]) -> None:
    """Key frames stand every ten frames: the first ten again, and those after the last of them."""
    for skip, most in ((25, 40), (59, 10), (70, 10)):
        assert rows_of(clips[name], EveryFrame(), skip)[2] <= most
        assert rows_of(clips[name], AtFps(Fraction(25)), skip)[2] <= most


def test_damaged_videos_are_read_from_the_start_as_all_of_it_counts(tmp_path: Path) -> None:
    data = bytearray(make_clip(tmp_path / "x.mp4", FRAMES, options={"g": "10", "threads": "1"}).read_bytes())
    data[1200:1230] = bytes(30)
    (tmp_path / "x.mp4").write_bytes(data)
    rows, told, _ = rows_of(tmp_path / "x.mp4", EveryFrame(), 0, on_damage="keep")
    assert told
    assert rows_of(tmp_path / "x.mp4", EveryFrame(), 41, on_damage="keep")[:2] == (rows[41:], told)


def test_the_sample() -> None:
    path = ROOT / "sample" / "v_GGSY1Qvo990.mp4"
    rows, told, _ = rows_of(path, AtFps(Fraction(10)), 0)
    skip = len(rows) * 2 // 3
    assert rows_of(path, AtFps(Fraction(10)), skip)[:2] == (rows[skip:], told)
