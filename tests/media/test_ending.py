"""Files that end early tell: they fail, or are partial; what an intact file's header says too much is a warning."""

import io
import re
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
from PIL import Image

from media.ending import Reach
from media.images import open_image
from media.sampling import AtFps, EveryFrame, Sampler, Total
from tests.helpers.cut_films import BARELY_SECONDS, FILMS, FPS, Outcome, cuts, outcome
from tests.helpers.shared_data import SHARED, shared_files
from utils.errors import MediaError

SECONDS = 4


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those that are written when they are asked for."""
    return tmp_path_factory.mktemp("films")


def film(folder: Path, name: str) -> Path:
    path = folder / name
    return path if path.exists() else FILMS[name].write(path, SECONDS)


def assert_tells(found: Outcome, path: Path, cut: str) -> None:
    if found.status == "done":
        assert found.end_seconds > SECONDS - BARELY_SECONDS, cut
    elif found.status == "failed":
        assert found.reason.startswith(f"{path}: "), cut
        assert "\n" not in found.reason, cut


@pytest.mark.parametrize("name", FILMS)
def test_whole_films_are_done(films: Path, name: str) -> None:
    found = outcome(film(films, name))
    assert found == Outcome("done", rows=SECONDS * FPS, end_seconds=SECONDS)


@pytest.mark.parametrize("name", FILMS)
def test_every_cut_tells(films: Path, tmp_path: Path, name: str) -> None:
    told = []
    for tenth, path in cuts(film(films, name), tmp_path):
        for on_damage in ("raise", "keep"):
            found = outcome(path, on_damage=on_damage)
            assert_tells(found, path, f"{tenth}/10 {found}")
            told.append(found.status)
    assert told.count("done") <= 4, told  # the last of an MPEG-PS are padding


@pytest.mark.parametrize("sampler", [AtFps(Fraction(1)), AtFps(Fraction(1, 2)), Total(2)])
@pytest.mark.parametrize("name", ["sound.mp4", "sound.mkv", "silent.webm", "sound.avi"])
def test_every_sampler_tells(films: Path, tmp_path: Path, name: str, sampler: Sampler) -> None:
    """Also where only a part is decoded."""
    whole = outcome(film(films, name), sampler)
    assert (whole.status, whole.warnings) == ("done", ())
    for tenth, path in cuts(film(films, name), tmp_path):
        found = outcome(path, sampler)
        assert found.status == "failed", f"{tenth}/10 {found}"


def test_what_is_told(films: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.mkv"
    data = film(films, "sound.mkv").read_bytes()
    path.write_bytes(data[: len(data) // 2])
    kept = outcome(path, on_damage="keep")
    assert kept.status == "partial"
    found = re.escape(f"found {kept.end_seconds:.2f} s ({kept.rows} frames)")
    assert re.fullmatch(rf"ends early: its header says 4\.\d\d s, {found}", kept.reason)
    assert outcome(path).reason == f"{path}: {kept.reason}; on_error=partial keeps them"


@pytest.mark.parametrize("sound_seconds", [2, 8])
@pytest.mark.parametrize("name", ["sound.mp4", "sound.mkv", "sound.webm", "sound.avi", "sound.flv", "sound.wmv"])
def test_sound_may_be_longer_or_shorter(tmp_path: Path, name: str, sound_seconds: int) -> None:
    found = outcome(FILMS[name].write(tmp_path / name, SECONDS, sound_seconds))
    assert (found.status, found.rows, found.warnings) == ("done", SECONDS * FPS, ())


@pytest.mark.parametrize("name", ["sound.mp4", "sound.mkv", "sound.avi", "silent.gif", "silent.webm", "sound.ts"])
def test_what_follows_a_whole_film_does_not_matter(films: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for rest in (bytes(5000), b"junk" * 700):
        path.write_bytes(film(films, name).read_bytes() + rest)
        assert outcome(path).status == "done"


@pytest.mark.parametrize("name", ["sound.mp4", "fragments.mp4", "sound.mkv", "live.webm", "sound.avi", "silent.gif"])
def test_a_download_into_a_file_of_full_size(films: Path, tmp_path: Path, name: str) -> None:
    data = film(films, name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    assert outcome(path).status == "failed"


def with_longer_header(name: str, data: bytes) -> bytes:
    """Twice as long, as the header says."""
    if name.endswith(".avi"):
        at = data.index(b"strh") + 8 + 32
        return data[:at] + struct.pack("<I", 2 * SECONDS * FPS) + data[at + 4 :]
    at = data.index(b"\x44\x89\x88") + 3  # Matroska: 8 bytes
    data = data[:at] + struct.pack(">d", 2000.0 * SECONDS) + data[at + 8 :]
    return data.replace(b"DURATION", b"duration")  # what it says of each stream


@pytest.mark.parametrize("name", ["silent.avi", "sound.avi", "silent.mkv", "sound.mkv"])
def test_a_wrong_header_of_a_whole_file_is_a_warning(films: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    whole = with_longer_header(name, film(films, name).read_bytes())
    path.write_bytes(whole)
    found = outcome(path)
    assert (found.status, found.rows) == ("done", SECONDS * FPS), found
    assert found.warnings == ("cut short: its header says 8.00 s, found 4.00 s (40 frames)",)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(2000) + whole[middle + 2000 :])  # but now it may be right
    assert outcome(path).status == "failed"


def test_a_header_that_contradicts_itself_is_believed_where_bytes_are_missing(films: Path, tmp_path: Path) -> None:
    """Twice as long, as it says of the file, but not of its only stream."""
    data = film(films, "silent.mkv").read_bytes()
    at = data.index(b"\x44\x89\x88") + 3
    data = data[:at] + struct.pack(">d", 2000.0 * SECONDS) + data[at + 8 :]
    path = tmp_path / "x.mkv"
    path.write_bytes(data)
    assert (outcome(path).status, outcome(path).warnings) == ("done", ())
    path.write_bytes(data[:-10])
    assert "ends early: its header says 8.00 s, found 4.00 s (40 frames)" in outcome(path).reason


def test_an_ogg_that_lost_pages_before_its_last_tells(films: Path, tmp_path: Path) -> None:
    data = film(films, "silent.ogv").read_bytes()
    starts = [at for at in range(len(data)) if data[at : at + 4] == b"OggS"]
    path = tmp_path / "x.ogv"
    path.write_bytes(data[: starts[len(starts) // 2]] + data[starts[-1] :])
    found = outcome(path)
    assert found.status == "failed", found
    assert "ends early: its header says 4.00 s, found " in found.reason


def test_time_stamps_that_restart_do_not_hide_what_is_missing(films: Path, tmp_path: Path) -> None:
    data = film(films, "silent.webm").read_bytes()
    clusters = [at for at in range(len(data)) if data[at : at + 4] == b"\x1f\x43\xb6\x75"]
    start, third = clusters[0], data[clusters[0] : clusters[len(clusters) // 3]]
    path = tmp_path / "x.webm"
    path.write_bytes(data[:start] + third * 4)
    found = outcome(path)
    assert found.status == "done", found
    assert found.warnings[0].startswith("time stamps start anew at frame "), found
    path.write_bytes(data[:start] + third * 2)
    found = outcome(path)
    assert found.status == "failed", found
    assert "ends early: its header says 4.00 s, found " in found.reason


@pytest.mark.parametrize(("pts", "end"), [(30, 40), (1 << 30, 20)])
def test_what_an_edit_list_hides_counts_up_to_the_end_of_the_film(pts: int, end: int) -> None:
    """Not what it hides because it were to be shown hours later."""
    stream = object()
    kind = {"stream": stream, "stream_index": 0, "duration": 10, "size": 1}
    shown = SimpleNamespace(**kind, pts=10, is_discard=False)
    hidden = SimpleNamespace(**kind, pts=pts, is_discard=True)
    container = SimpleNamespace(demux=lambda: iter([hidden, shown]))
    reach = Reach(last_tick=40)
    assert list(reach.packets(container, stream)) == [hidden, shown]  # type: ignore[arg-type]
    assert (reach.latest_ticks, reach.first_pts) == ({0: end}, 10)


def without_its_first_picture(path: Path, key_frames_apart: int) -> Path:
    """MPEG-TS with H.264: the parameter sets stay, and no frame decodes before the next key frame."""
    with av.open(str(path), "w") as output:
        options = {"bf": "0", "x264-params": f"keyint={key_frames_apart}:scenecut=0:repeat-headers=1"}
        stream = output.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frames = [av.VideoFrame(64, 48, "yuv420p") for _ in range(SECONDS * FPS)]
        first, second, *others = (packet for frame in (*frames, None) for packet in stream.encode(frame))
        sets = bytes(first).partition(b"\0\0\1\x65")[0]
        joined = av.Packet(sets + bytes(second))
        joined.pts, joined.dts, joined.time_base = second.pts, second.dts, second.time_base
        joined.stream = second.stream
        output.mux([joined, *others])
    return path


def test_a_recording_that_begins_between_two_key_frames(tmp_path: Path) -> None:
    """All do: what is lost with a second or less of them is not told, as no program tells it."""
    found = outcome(without_its_first_picture(tmp_path / "short.ts", FPS))
    assert (found.status, found.rows) == ("done", (SECONDS - 1) * FPS)
    found = outcome(without_its_first_picture(tmp_path / "long.ts", 2 * FPS))
    assert (found.status, found.rows) == ("partial", (SECONDS - 2) * FPS)
    assert found.reason == "damaged at 0.00 s after 0 frames (the first 1.90 s did not decode)"


def test_a_part_of_a_presentation_is_whole(films: Path, tmp_path: Path) -> None:
    """What a fragmented MP4 declares may be that of all its parts together."""
    data = film(films, "fragments.mp4").read_bytes()
    starts = [at for at in range(len(data)) if data[at : at + 4] == b"moof"]
    path = tmp_path / "part.mp4"
    path.write_bytes(data[: starts[4] - 4])
    found = outcome(path)
    assert found.status == "done"
    assert 0 < found.rows < SECONDS * FPS


STILL = ["jpg", "png", "gif", "webp", "avif", "tif", "bmp", "tga", "ico", "jp2", "ppm", "pcx"]
IMAGES = [*((ending, 1) for ending in STILL), *((ending, 20) for ending in ("gif", "png", "webp", "avif"))]


@pytest.mark.parametrize(("ending", "frames"), IMAGES)
def test_every_cut_of_an_image_tells(tmp_path: Path, ending: str, frames: int) -> None:
    noise = [Image.effect_noise((40, 30), 90).convert("RGB") for _ in range(frames)]
    more = {"save_all": True, "append_images": noise[1:], "duration": 100} if frames > 1 else {}
    noise[0].save(file := io.BytesIO(), Image.registered_extensions()[f".{ending}"], **more)
    path = tmp_path / "whole"
    path.write_bytes(file.getvalue())
    with open_image(path) as image:
        assert len(list(image)) == frames
    for tenth, cut in cuts(path, tmp_path):
        with pytest.raises(MediaError) as caught, open_image(cut) as image:
            list(image)
        assert str(caught.value).startswith(f"{cut}: "), tenth
        assert "\n" not in str(caught.value), tenth


def test_an_animation_cut_between_two_frames_tells(tmp_path: Path) -> None:
    noise = [Image.effect_noise((40, 30), 90) for _ in range(4)]
    noise[0].save(tmp_path / "x.gif", save_all=True, append_images=noise[1:])
    data = (tmp_path / "x.gif").read_bytes()
    (tmp_path / "x.gif").write_bytes(data[: data.rindex(b"!\xf9\x04")])
    with pytest.raises(MediaError, match=r"x\.gif: ends early: the last bytes of the file are missing"):
        open_image(tmp_path / "x.gif")


def test_a_stream_that_appears_on_the_way_ends_nothing(films: Path) -> None:
    """PyAV 18 has no place for it in its list, and looks it up when all streams end."""

    class Container:
        def demux(self) -> Iterator[av.Packet]:
            yield from container.demux()
            raise IndexError

    with av.open(str(film(films, "sound.swf"))) as container:
        stream = container.streams.video[0]
        packets = list(Reach().packets(Container(), stream))  # type: ignore[arg-type]
    assert len(packets) == SECONDS * FPS + 1
    assert not packets[-1].size


KNOWN_DAMAGE = {
    "data/generated_awkward/bitflips_in_mdat.mp4",
    "data/generated_awkward/truncated_moov_first.mp4",
    "data/dmlc__decord/corrupted.mp4",
    *(
        f"parity/awkward_media/{name}"
        for name in ("garbage_middle.mp4", "garbage_middle.ts", "truncated_faststart.mp4")
    ),
}
FOLDERS = [
    "parity/awkward_media",
    *(f"data/{name}" for name in ("generated_awkward", "dmlc__decord", "Eyevinn__mp4ff", "Zulko__moviepy")),
    "data/imageio__imageio-binaries",
]


@pytest.mark.shared
@pytest.mark.parametrize("folder", FOLDERS)
def test_no_whole_file_of_others_ends_early(folder: str) -> None:
    for name in shared_files(folder):
        found = outcome(SHARED / folder / name, EveryFrame())
        assert "ends early" not in found.reason, found
        if f"{folder}/{name}" in KNOWN_DAMAGE:
            assert found.status == "failed", name
