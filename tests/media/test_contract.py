"""One contract for every file of the reference data: exactly its frames, or a MediaError in one line.

Facts come from `media.json` (written with the ffmpeg 5.1 program). Files without facts are compared with the ffmpeg
program that imageio_ffmpeg brings, run here as an oracle on one decoder thread; their numbers of frames, once so
established, are in COUNTS. Everything is read with `on_damage="keep"`, as that program does.
"""

import functools
import hashlib
import json
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest

from media.sampling import AtFps, Total, sampler_from
from media.video import VideoReader
from tests.helpers.index_clips import index_of
from tests.helpers.shared_data import SHARED, shared_files
from utils.errors import MediaError

AWKWARD = SHARED / "parity" / "awkward_media"
DATA = SHARED / "data"
FOLDERS = ["generated_awkward", "dmlc__decord", "Eyevinn__mp4ff", "Zulko__moviepy", "imageio__imageio-binaries"]

pytestmark = pytest.mark.shared

AWKWARD_FILES = shared_files("parity/awkward_media")
FILES = [f"{folder}/{name}" for folder in FOLDERS for name in shared_files(f"data/{folder}")]

# Frames as decoded by the oracle (recorded, so that both going wrong at once would show).
COUNTS = {
    "generated_awkward/bitflips_in_mdat.mp4": 71,
    "generated_awkward/truncated_moov_first.mp4": 44,
    "generated_awkward/index_25fps_editlist_from1s.mp4": 52,
    "generated_awkward/index_vfr_30to10fps_60f.mp4": 60,
    "generated_awkward/rotated90_left_bright.mp4": 25,
    "dmlc__decord/corrupted.mp4": 49,
    "dmlc__decord/flipping_a_pancake.mkv": 310,
    "dmlc__decord/unordered.mov": 4,
    "dmlc__decord/video_90.mov": 3,
    "Eyevinn__mp4ff/bbb_prog_10s.mp4": 238,
    "Eyevinn__mp4ff/prog_8s.mp4": 240,
    "Eyevinn__mp4ff/v300_multiple_segments.mp4": 240,
    "Zulko__moviepy/-video-with-dash-.mp4": 5,
    "Zulko__moviepy/big_buck_bunny_432_433.webm": 24,
    "Zulko__moviepy/chaplin.mp4": 241,
    "imageio__imageio-binaries/cockatoo.mp4": 280,
    "imageio__imageio-binaries/newtonscradle.gif": 36,
    "imageio__imageio-binaries/realshort.mp4": 36,
    "imageio__imageio-binaries/stent.swf": 10,
}
DAMAGED = {
    "generated_awkward/bitflips_in_mdat.mp4",
    "generated_awkward/truncated_moov_first.mp4",
    "dmlc__decord/corrupted.mp4",
}
UNUSABLE = {
    "generated_awkward/audio_only.mp4": "found only audio",
    "generated_awkward/text_named.mp4": "cannot be opened",
    "generated_awkward/truncated_moov_missing.mp4": "cannot be opened",
    "generated_awkward/zero_bytes.mp4": "cannot be opened",
    "dmlc__decord/LICENSE": "cannot be opened",
    "Eyevinn__mp4ff/LICENSE": "cannot be opened",
    "Eyevinn__mp4ff/init.mp4": "no frame could be decoded",
    "Eyevinn__mp4ff/init_truncated.mp4": "found nothing",
    "Eyevinn__mp4ff/opus.mp4": "found only audio",
    "Zulko__moviepy/LICENCE.txt": "found text",
    "imageio__imageio-binaries/README.txt": "found text",
}
LONG = {"Zulko__moviepy/big_buck_bunny_0_30.webm"}  # 720 frames of 720p: compared at 5 fps only, for time


@functools.cache
def facts_of_all() -> dict[str, Any]:
    return json.loads((AWKWARD / "media.json").read_text())["files"]


def md5(rgb: np.ndarray) -> str:
    return hashlib.md5(rgb.tobytes()).hexdigest()


def selected(path: Path, sampler: AtFps | Total) -> list[int]:
    """Indices of the frames; none where the video is too short for the rate."""
    with VideoReader(path, on_damage="keep") as video:
        try:
            return [row.frame.index for row in sampler.rows(video)]
        except MediaError:
            return []


def assert_one_line(error: MediaError, path: Path) -> None:
    assert str(error).startswith(f"{path}: ")
    assert "\n" not in str(error)


@pytest.mark.parametrize("name", AWKWARD_FILES)
def test_awkward_media(name: str) -> None:
    path, facts = AWKWARD / name, facts_of_all()[name]
    if not facts.get("decodable_frames") or name == "cover_only.mp4":  # a cover picture is no video to us
        with pytest.raises(MediaError) as caught:
            VideoReader(path)
        assert_one_line(caught.value, path)
        return
    with VideoReader(path, on_damage="keep") as video:
        frames = [(md5(frame.to_rgb()), float(frame.seconds) * 1000) for frame in video.frames()]
        assert [video.info.width_px, video.info.height_px] == facts["display_size"]
        assert bool(video.damage) == bool(facts["ffmpeg_errors"] or name == "garbage_middle.ts")
    assert len(frames) == facts["decodable_frames"]
    same_size = 8 if name == "size_change.ts" else None  # the ffmpeg program scales the frames after these
    assert [digest for digest, _ in frames][:same_size] == facts["frame_rgb24_md5"][:same_size]
    stamps = facts["pts_ms"]
    if stamps[0] is not None:
        assert [ms for _, ms in frames] == pytest.approx([stamp - stamps[0] for stamp in stamps], abs=1e-6)
    for fps, rows in facts["fps_filter"].items():
        assert selected(path, AtFps(int(fps))) == rows["source_index"]  # type: ignore[arg-type]
    assert len(selected(path, Total(4))) == 4


@pytest.mark.parametrize("name", [name for name in AWKWARD_FILES if "garbage" in name or "truncated_fast" in name])
def test_damage_is_refused(name: str) -> None:
    expected = r"damaged at .* after \d+ frames .*on_error=partial"
    with VideoReader(AWKWARD / name) as video, pytest.raises(MediaError, match=expected) as caught:
        list(video.frames())
    assert_one_line(caught.value, AWKWARD / name)


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_projects(name: str) -> None:
    path = DATA / name
    if name in UNUSABLE:
        with pytest.raises(MediaError, match=UNUSABLE[name]) as caught:
            VideoReader(path)
        assert_one_line(caught.value, path)
        return
    chosen = selected(path, AtFps(Fraction(5)))
    with VideoReader(path, on_damage="keep") as video:
        size = video.info.width_px, video.info.height_px
        wanted = set(chosen) if name in LONG else None
        frames = {f.index: md5(f.to_rgb()) for f in video.frames() if wanted is None or f.index in wanted}
        assert bool(video.damage) == (name in DAMAGED)
    assert [frames[index] for index in chosen] == by_ffmpeg_program(path, size, "fps=5")
    if name not in LONG:
        assert len(frames) == COUNTS.get(name, len(frames))
        assert list(frames.values()) == by_ffmpeg_program(path, size)
        assert len(selected(path, Total(7))) == 7


def by_ffmpeg_program(path: Path, size: tuple[int, int], filters: str = "null") -> list[str]:
    program, num_bytes = imageio_ffmpeg.get_ffmpeg_exe(), size[0] * size[1] * 3
    command = [program, "-loglevel", "quiet", "-nostdin", "-threads", "1", "-i", f"file:{path}", "-map", "0:v:0"]
    command += ["-vf", filters, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    digests = []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while frame := process.stdout.read(num_bytes):
            digests.append(hashlib.md5(frame).hexdigest())
    return digests


@pytest.mark.parametrize("name", [name for name in FILES if "/index_" in name])
def test_index_clips(name: str) -> None:
    """Frame i has luma 16 + 2i, so pictures tell which frame they are; times as their names say."""
    first = 25 if "editlist" in name else 0
    with VideoReader(DATA / name) as video:
        found = [(index_of(frame.to_rgb()), float(frame.seconds)) for frame in video.frames()]
        assert video.damage == []
    indices, seconds = zip(*found, strict=True)
    if name.endswith(".avi"):  # MPEG-4 at this rate is one level off here and there
        assert np.abs(np.subtract(indices, range(100))).max() <= 1
    else:
        assert list(indices) == list(range(first, first + len(found)))
    if "vfr" in name:
        expected = [i / 30 if i < 30 else 1 + (i - 30) / 10 for i in range(60)]
    else:
        fps = next((rate for rate in (19.62, 29.97) if str(rate) in name), 25)
        expected = [i / fps for i in range(len(found))]
    assert seconds == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "facts"),
    [("v_GGSY1Qvo990.mp4", "expected_video.npz"), ("pan_photos.mp4", "expected_video_clean.npz")],
)
@pytest.mark.parametrize(
    ("case", "keys"),
    [
        ("fps1", {"extraction_fps": 1}),
        ("fps5", {"extraction_fps": 5}),
        ("fps25", {"extraction_fps": 25}),
        ("total10", {"extraction_total": 10}),
    ],
)
def test_rows_of_the_reference(name: str, facts: str, case: str, keys: dict[str, int]) -> None:
    with np.load(SHARED / "parity" / facts) as arrays:
        indices, times = arrays[f"{case}_lossless_source_index"], arrays[f"{case}_lossless_timestamps_ms"]
    sampler = sampler_from(**keys)
    with VideoReader(SHARED / "parity" / "video" / name) as video:
        rows = [(row.frame.index, row.seconds * 1000) for row in sampler.rows(video)]
        assert float(sampler.rate(video)) == pytest.approx(
            keys.get("extraction_fps", 10 * video.info.fps / {"v": 355, "p": 186}[name[0]])
        )
    assert [index for index, _ in rows] == indices.tolist()
    assert [ms for _, ms in rows] == pytest.approx(times.tolist())
