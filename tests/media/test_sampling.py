from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media.sampling import AtFps, EveryFrame, Total, parse_rate, retimed, sampler_from
from media.video import VideoReader
from tests.helpers.index_clips import index_of, make_clip
from utils.errors import MediaError, UserError

TICK = Fraction(1, 1000)


@dataclass
class Still:
    index: int
    seconds: Fraction
    clock_seconds: Fraction
    duration_seconds: Fraction

    def to_rgb(self) -> np.ndarray:
        return np.zeros((2, 2, 3), np.uint8)


@dataclass
class FakeVideo:
    stills: list[Still]
    path: Path = Path("fake.mp4")
    info: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(fps=25.0))

    def frames(self, *, skip: int = 0) -> Iterator[Still]:
        return iter(self.stills)

    def rows(self, retime, *, apart_seconds, skip=0):
        return islice(retime(self.frames()), skip, None)

    def extent(self) -> SimpleNamespace:
        last = self.stills[-1]
        return SimpleNamespace(duration_seconds=last.seconds + last.duration_seconds)


def stills(ticks: list[int], last_duration: int) -> list[Still]:
    steps = [*np.diff(ticks).tolist(), last_duration]
    return [
        Still(i, (t - ticks[0]) * TICK, t * TICK, d * TICK) for i, (t, d) in enumerate(zip(ticks, steps, strict=True))
    ]


def by_libavfilter(ticks: list[int], last_duration: int, rate: Fraction) -> list[int]:
    """Which frames FFmpeg's own filter emits; the grey level tells."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=2, height=2, format="gray", time_base=TICK)
    graph.link_nodes(source, graph.add("fps", f"fps={rate}"), graph.add("buffersink")).configure()
    found = []

    def pull() -> None:
        while True:
            try:
                found.append(int(graph.vpull().to_ndarray()[0, 0]))
            except (BlockingIOError, EOFError):
                return

    for i, still in enumerate(stills(ticks, last_duration)):
        frame = av.VideoFrame.from_ndarray(np.full((2, 2), i, np.uint8), format="gray")
        frame.pts, frame.time_base, frame.duration = ticks[i], TICK, int(still.duration_seconds / TICK)
        graph.vpush(frame)
        pull()
    graph.vpush(None)
    pull()
    return found


rates = st.one_of(
    st.integers(1, 60).map(Fraction),
    st.sampled_from([Fraction(981, 50), Fraction(30000, 1001), Fraction(981, 1775), Fraction(1, 3)]),
    st.fractions(min_value=Fraction(1, 10), max_value=100, max_denominator=1000),
)
times = st.lists(st.integers(1, 400), min_size=0, max_size=40).flatmap(
    lambda steps: st.integers(0, 2000).map(lambda start: np.cumsum([start, *steps]).tolist())
)


@settings(max_examples=200, deadline=None)
@given(ticks=times, last=st.integers(1, 400), rate=rates)
def test_same_rows_as_the_fps_filter(ticks, last, rate):
    found = [row.frame.index for row in retimed(iter(stills(ticks, last)), rate)]
    assert found == by_libavfilter(ticks, last, rate)


@settings(max_examples=200, deadline=None)
@given(ticks=times, last=st.integers(1, 400), num_rows=st.integers(1, 50))
def test_total_is_exact(ticks, last, num_rows):
    video = FakeVideo(stills(ticks, last))
    rows = list(Total(num_rows).rows(video))
    assert len(rows) == num_rows
    assert [row.frame.index for row in rows] == sorted(row.frame.index for row in rows)
    assert [row.seconds for row in rows] == pytest.approx(
        [k / float(Total(num_rows).rate(video)) for k in range(num_rows)]
    )


def test_rule_of_thumb_for_a_constant_rate():
    """25 -> 1 fps shows frames 12, 37, 62, 87, labelled 0, 1, 2, 3 s."""
    rows = list(AtFps(Fraction(1)).rows(FakeVideo(stills(list(range(0, 4000, 40)), 40))))
    assert [(row.frame.index, row.seconds) for row in rows] == [(12, 0.0), (37, 1.0), (62, 2.0), (87, 3.0)]


def test_frames_are_held_one_at_a_time_and_converted_on_demand(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", 50)
    with VideoReader(path) as video:
        rows = [(index_of(row.frame.to_rgb()), row.seconds) for row in sampler_from(extraction_fps=5).rows(video)]
    assert rows == [(i, k / 5) for k, i in enumerate([2, 7, 12, 17, 22, 27, 32, 37, 42, 47])]
    with VideoReader(path) as video:
        rows = list(AtFps(Fraction(50)).rows(video))
    assert len(rows) == 100
    assert rows[0].frame is rows[1].frame


def test_every_frame(tmp_path):
    with VideoReader(make_clip(tmp_path / "clip.mp4", 5)) as video:
        assert [row.seconds for row in EveryFrame().rows(video)] == [0.0, 0.04, 0.08, 0.12, 0.16]
        assert float(EveryFrame().rate(video)) == 25.0


def test_too_short_for_a_row(tmp_path):
    path = make_clip(tmp_path / "one.mp4", 1)
    with (
        VideoReader(path) as video,
        pytest.raises(MediaError, match=r"0\.040 s .*extraction_fps=2;.*extraction_total=1"),
    ):
        list(AtFps(Fraction(2)).rows(video))
    with VideoReader(path) as video:
        assert [row.frame.index for row in Total(4).rows(video)] == [0, 0, 0, 0]
        assert float(Total(4).rate(video)) == 100.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (19.62, "981/50"),
        (29.97, "2997/100"),
        (0.5526760563380282, "981/1775"),
        (1.2890335470980632, "40000/31031"),
        ("30000/1001", "30000/1001"),
        (1, "1"),
        (0.1, "1/10"),
    ],
)
def test_rates_are_read_as_ffmpeg_reads_them(value, expected):
    rate = parse_rate(value, key="extraction_fps")
    assert rate == Fraction(expected)
    graph = av.filter.Graph()
    source = graph.add_buffer(width=2, height=2, format="gray", time_base=TICK)
    graph.link_nodes(source, graph.add("fps", f"fps={value}"), graph.add("buffersink")).configure()
    for pts in (0, 100_000):
        frame = av.VideoFrame.from_ndarray(np.zeros((2, 2), np.uint8), format="gray")
        frame.pts, frame.time_base = pts, TICK
        graph.vpush(frame)
    assert 1 / graph.vpull().time_base == rate


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "fast", "1/0", True, 1e-12])
def test_unusable_rate(value):
    with pytest.raises(UserError, match="extraction_fps="):
        sampler_from(extraction_fps=value)


@pytest.mark.parametrize("value", [0, -3, 2.5, True])
def test_unusable_total(value):
    with pytest.raises(UserError, match="extraction_total="):
        sampler_from(extraction_total=value)


def test_both_are_refused():
    with pytest.raises(UserError, match=r"extraction_fps.*extraction_total"):
        sampler_from(extraction_fps=1, extraction_total=4)
    assert sampler_from() == EveryFrame()
