"""Decoding only what rows show gives the same rows, to the bit, or is not done."""

from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import pytest

from media import sparse, video
from media.container import Clock
from media.packets import CodedPictures, scan
from media.sampling import AtFps, Sampler, Total
from media.sparse import NotAsAnnouncedError, announced
from media.video import VideoReader
from tests.helpers.index_clips import index_of, make_clip
from tests.helpers.shared_data import SHARED
from utils.errors import MediaError

CLOSED = {"g": "10", "bf": "3", "threads": "1"}
X265 = {"x265-params": "keyint=10:open-gop=0:log-level=none"}
CLIPS = {
    "h264.mp4": ("libx264", CLOSED),
    "h264.mkv": ("libx264", CLOSED),
    "hevc.mp4": ("libx265", X265),
    "vp9.webm": ("libvpx-vp9", {"g": "10", "cpu-used": "8"}),
}
SAMPLERS = [Total(1), Total(3), AtFps(Fraction(1, 2)), AtFps(Fraction(3, 2))]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode in parts wherever that can be done, worth it or not."""
    monkeypatch.setattr(video, "_FAR_APART_SECONDS", 0)
    monkeypatch.setattr(sparse, "_WORTH_IT", 2)


def rows_of(path: Path, sampler: Sampler, *, whole: bool = False) -> tuple[list[tuple], list[str], bool]:
    """Rows with their pictures, the warnings, and whether the file was decoded from its beginning."""
    with VideoReader(path) as reader:
        whole_way = reader.frames
        begun = []
        reader.frames = lambda **skip: begun.append(True) or whole_way(**skip)  # type: ignore[method-assign]
        if whole:
            reader._sparse = lambda retime, skip: None  # type: ignore[method-assign]
        rows = []
        for row in sampler.rows(reader):
            frame = row.frame
            times = (frame.index, frame.seconds, frame.clock_seconds, frame.duration_seconds, row.seconds)
            rows.append((*times, frame.to_rgb().tobytes()))
        return rows, list(reader.warnings), bool(begun)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
@pytest.mark.parametrize("name", CLIPS)
def test_same_rows(tmp_path: Path, always: None, name: str, sampler: Sampler) -> None:
    codec, options = CLIPS[name]
    path = make_clip(tmp_path / name, 95, codec=codec, options=options)
    rows, warnings, whole = rows_of(path, sampler)
    assert not whole
    assert (rows, warnings) == rows_of(path, sampler, whole=True)[:2]


def test_only_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four rows of 400 frames, which are decoded from a start every ten frames on."""
    path = make_clip(tmp_path / "long.mp4", 400, options=CLOSED)
    asked = []
    pictures_of = sparse.pictures_of

    def spy(rows: sparse.SparseRows, *arguments: Any, **options: Any) -> Any:
        asked.append(rows)
        return pictures_of(rows, *arguments, **options)

    monkeypatch.setattr(video, "pictures_of", spy)
    with VideoReader(path) as reader:
        rows = list(Total(4).rows(reader))
    assert [row.frame.index for row in rows] == [49, 149, 249, 349]
    (only,) = asked
    assert all(part.last - part.first < 10 for part in only.parts)


def test_rows_near_each_other_are_decoded_from_the_beginning(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", 95, options=CLOSED)
    assert rows_of(path, AtFps(Fraction(1)))[2]
    assert rows_of(make_clip(tmp_path / "one.mp4", 95, options={"g": "250"}), Total(2))[2]  # one start


def test_times_are_those_of_decoded_frames(tmp_path: Path) -> None:
    ticks = [0, 3, 4, 9, 20, 21, 22, 40, 41, 55, 56, 57, 58, 59, 80, 81]
    path = make_clip(tmp_path / "vfr.mp4", 16, options=CLOSED, ticks=ticks, time_base=Fraction(1, 100))
    with VideoReader(path) as reader:
        table = reader.extent().table
        assert table is not None
        stamps = [vars_of(frame) for frame in announced(table, Clock(reader._header))]
        assert stamps == [vars_of(frame) for frame in reader.frames()]


def vars_of(frame: Any) -> tuple:
    return frame.index, frame.seconds, frame.clock_seconds, frame.duration_seconds


@pytest.mark.parametrize(
    "options",
    [
        CLOSED | {"x264-params": "open-gop=1:bframes=3:b-adapt=0"},
        {"g": "20", "intra-refresh": "1", "threads": "1"},
    ],
    ids=["open groups", "intra refresh"],
)
def test_a_key_frame_may_be_no_start(tmp_path: Path, always: None, options: dict[str, str]) -> None:
    path = make_clip(tmp_path / "clip.mp4", 95, options=options)
    with av.open(str(path)) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    table = scan(path).table
    assert table is not None
    assert (sum(keys) > 1, table.starts.sum()) == (True, 1)
    assert rows_of(path, Total(3))[:2] == rows_of(path, Total(3), whole=True)[:2]


@pytest.mark.parametrize("ending", ["mkv", "ts", "flv", "avi"])
def test_extent_is_that_of_mp4(tmp_path: Path, ending: str) -> None:
    """Matroska stores no dts, and FFmpeg does not guess the first ones of frames that are shown out of order."""
    found = scan(make_clip(tmp_path / f"clip.{ending}", 95, options=CLOSED | {"bf": "0" if ending == "avi" else "3"}))
    assert (found.num_frames, float(found.duration_seconds)) == (95, pytest.approx(3.8, abs=0.002))


@pytest.mark.parametrize("ending", ["avi", "ts", "flv"])
def test_containers_that_tell_less(tmp_path: Path, ending: str) -> None:
    assert scan(make_clip(tmp_path / f"clip.{ending}", 30, options=CLOSED)).table is None


def damaged(path: Path, frame: int) -> Path:
    """The packet of that frame is overwritten."""
    with av.open(str(path)) as container:
        packet = next(packet for packet in container.demux(video=0) if packet.pts == frame * packet.duration)
        position, size = packet.pos, packet.size
    content = bytearray(path.read_bytes())
    content[position + 4 : position + size] = b"\xff" * (size - 4)
    broken = path.with_name("broken.mp4")
    broken.write_bytes(content)
    return broken


def test_damage_where_no_row_is(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", 400, options=CLOSED)
    broken = damaged(path, 200)
    with pytest.raises(MediaError, match="damaged at"):
        rows_of(broken, Total(4), whole=True)
    assert rows_of(broken, Total(4))[:2] == rows_of(path, Total(4))[:2]
    with VideoReader(broken, on_damage="keep") as reader:
        assert len(list(Total(4).rows(reader))) == 4
        assert reader.damage


def test_damage_where_a_row_is(tmp_path: Path) -> None:
    broken = damaged(make_clip(tmp_path / "clip.mp4", 400, options=CLOSED), 149)
    with pytest.raises(MediaError, match="damaged at 5"):
        rows_of(broken, Total(4))


def test_what_comes_out_otherwise_is_read_from_the_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_clip(tmp_path / "clip.mp4", 400, options=CLOSED)
    pictures_of = sparse.pictures_of

    def fails_after_two(*arguments: Any, **options: Any) -> Any:
        pictures = pictures_of(*arguments, **options)
        yield from (next(pictures) for _ in range(2))
        raise NotAsAnnouncedError

    expected = rows_of(path, Total(4))[0]
    monkeypatch.setattr(video, "pictures_of", fails_after_two)
    rows, _, whole = rows_of(path, Total(4))
    assert whole
    assert rows == expected
    assert [row[0] for row in rows] == [49, 149, 249, 349]


def unit(kind: int, content: bytes = b"\0") -> bytes:
    return (1 + len(content)).to_bytes(4, "big") + bytes([kind]) + content


AVC = bytes([1, 100, 0, 13, 255])


def test_idr_pictures_and_parameter_sets() -> None:
    def look(*packets: bytes) -> tuple[list[bool], bool]:
        pictures = CodedPictures.of("h264", AVC)
        assert pictures is not None
        found = [pictures.is_start(memoryview(packet), keyframe=True) for packet in packets]
        return found, pictures.settings_stay

    assert look(unit(5), unit(1), unit(6) + unit(5)) == ([True, False, True], True)
    repeated = unit(7, b"sets") + unit(5)
    assert look(repeated, unit(1), repeated) == ([True, False, True], True)
    assert look(repeated, unit(7, b"other") + unit(5)) == ([True, True], False)
    assert look(unit(5), repeated) == ([True, True], False)
    assert look(unit(5), unit(8) + unit(1)) == ([True, False], False)
    assert look(b"", b"\0\0", unit(5)[:4], (9).to_bytes(4, "big") + b"\x05") == ([False, False, False, True], True)
    assert CodedPictures.of("h264", b"\0\0\0\1\x67") is None
    assert CodedPictures.of("hevc", AVC) is None


@pytest.mark.shared
def test_files_of_other_projects(always: None) -> None:
    """Every rule and codec that is met there; damage that no row shows is the one difference."""
    files = [path for path in (SHARED / "data").rglob("*") if path.suffix in (".mp4", ".mkv", ".webm", ".mov")]
    num_sparse = 0
    for path in files:
        try:
            expected, whole = rows_of(path, Total(3), whole=True), False
        except MediaError:
            continue
        rows, warnings, whole = rows_of(path, Total(3))
        assert (rows, warnings) == expected[:2], path
        num_sparse += not whole
    assert num_sparse > 10


def test_a_sampler_that_selects_by_time_can_be_asked_twice(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", 50)
    with VideoReader(path) as reader:
        rows = list(reader.rows(partial(Total(2)._rows, rate=Fraction(1)), apart_seconds=Fraction(1)))
    assert [index_of(row.frame.to_rgb()) for row in rows] == [12, 37]
