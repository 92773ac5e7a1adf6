"""The shipped samples are what sample/README.md says and what sample/make_samples.py makes."""

import re
import runpy
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

SAMPLE = Path(__file__).parents[1] / "sample"
RATES = {"v_GGSY1Qvo990.mp4": Fraction(25), "v_ZNVhz7ctTq0.mp4": Fraction(30000, 1001)}
ROW = re.compile(r"\| `(\S+)` \| (\d+)-(\d+) \| ([\d.]+)-([\d.]+) \| (\w+):")


def table() -> list[tuple[str, int, int, float, float, str]]:
    """The rows of the README: video, first and last frame, start and end in seconds, subject."""
    rows = ROW.findall((SAMPLE / "README.md").read_text(encoding="utf-8"))
    return [
        (v, int(first), int(last), float(start), float(end), subject) for v, first, last, start, end, subject in rows
    ]


def decode(name: str) -> tuple[list[np.ndarray], list[Fraction]]:
    with av.open(str(SAMPLE / name)) as container:
        frames = list(container.decode(video=0))
        return [f.to_ndarray(format="rgb24") for f in frames], [f.pts * f.time_base for f in frames]


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference, 0..255."""
    return float(np.abs(one.astype(np.int16) - other.astype(np.int16)).mean())


def test_table_covers_both_videos() -> None:
    assert [(row[0], row[5]) for row in table()] == [
        ("v_GGSY1Qvo990.mp4", "cat"),
        ("v_GGSY1Qvo990.mp4", "coffee"),
        ("v_ZNVhz7ctTq0.mp4", "astronaut"),
        ("v_ZNVhz7ctTq0.mp4", "rocket"),
    ]


@pytest.mark.parametrize("name", RATES)
def test_frames_times_and_cuts_are_as_the_readme_says(name: str) -> None:
    images, seconds = decode(name)
    first_shot, second_shot = (row for row in table() if row[0] == name)
    assert seconds == [index / RATES[name] for index in range(len(images))]
    assert first_shot[1] == 0
    assert second_shot[1] == first_shot[2] + 1
    assert second_shot[2] == len(images) - 1
    for _, first, last, start, end, _ in (first_shot, second_shot):
        assert float(first / RATES[name]) == pytest.approx(start, abs=5e-4)
        assert float((last + 1) / RATES[name]) == pytest.approx(end, abs=5e-4)
    steps = [difference(one, other) for one, other in pairwise(images)]
    assert np.argmax(steps) + 1 == second_shot[1]  # the cut
    assert sorted(steps)[-2] < max(steps) / 4  # and everything else is smooth


@pytest.mark.parametrize("name", RATES)
def test_videos_are_what_the_script_makes(name: str) -> None:
    script = runpy.run_path(str(SAMPLE / "make_samples.py"))
    (clip,) = (clip for clip in script["CLIPS"] if clip.name == name)
    images, _ = decode(name)
    wanted = list(script["frames"](clip))
    assert len(images) == len(wanted)
    for index in range(0, len(images), 25):
        assert images[index].shape == (240, 320, 3)
        assert difference(images[index], wanted[index]) < 6  # compression only


@pytest.mark.parametrize("name", RATES)
def test_videos_are_h264_with_b_frames_and_small(name: str) -> None:
    path = SAMPLE / name
    assert path.stat().st_size < 350_000
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # playable while it loads
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", RATES[name])
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        assert [p.pts for p in packets] != sorted(p.pts for p in packets)


def test_list_names_both_videos() -> None:
    lines = (SAMPLE / "sample_video_paths.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [f"./sample/{name}" for name in RATES]


@pytest.mark.parametrize("subject", ["cat", "coffee", "astronaut", "rocket"])
def test_photos(subject: str) -> None:
    path = SAMPLE / f"{subject}.jpg"
    assert path.stat().st_size < 60_000
    with Image.open(path) as photo:
        assert photo.format == "JPEG"
        assert 400 <= photo.width <= 480
