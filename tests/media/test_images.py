"""Everything Pillow opens becomes frames with times; everything else a MediaError that says why."""

import errno
import io
import random
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from media.images import image_suffixes, load_image, open_image
from tests.helpers.shared_data import PARITY, SHARED, shared_files
from utils.errors import MediaError

RNG = np.random.default_rng(0)
NOISE = Image.fromarray(RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8))
COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
ANIMATIONS = ["gif", "webp", "png", "avif"]


def read(path, **options) -> tuple[list[Image.Image], list[float], list[str], dict]:
    with open_image(path, **options) as image:
        frames = [(frame.picture.copy(), frame.seconds) for frame in image]
        return [picture for picture, _ in frames], [seconds for _, seconds in frames], image.warnings, image.facts


def encoded(image: Image.Image, ending: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, Image.registered_extensions()[f".{ending}"], **options)
    return file.getvalue()


def animation(path: Path, durations_ms: list[int], **options) -> Path:
    frames = [Image.new("RGB", (16, 16), colour) for colour in COLOURS]
    times = durations_ms if path.suffix != ".png" else [float(ms) for ms in durations_ms]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, **options)
    return path


def in_mode(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(RNG.integers(0, 65536, (20, 30)).astype(np.uint16))
    if mode == "I":
        return Image.fromarray(RNG.integers(-9, 70000, (20, 30)).astype(np.int32))
    return NOISE.convert("L").convert(mode) if mode in ("LA", "F", "I") else NOISE.convert(mode)


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        *(("RGB", ending) for ending in ("jpg", "png", "bmp", "tga", "ppm", "tif", "webp", "gif", "pcx", "sgi", "jp2")),
        *(("L", "pgm"), ("L", "png"), ("1", "pbm"), ("1", "png"), ("LA", "png"), ("P", "png"), ("P", "bmp")),
        *(("RGBA", "png"), ("RGBA", "ico"), ("RGBA", "webp"), ("CMYK", "jpg"), ("CMYK", "tif"), ("F", "tif")),
        *(("I;16", "png"), ("I;16", "tif"), ("I", "tif"), ("YCbCr", "jpg"), ("LAB", "tif"), ("RGB", "avif")),
    ],
)
def test_formats_and_modes_are_what_pillow_decodes(tmp_path, mode, ending):
    data = encoded(in_mode(mode), ending)
    (tmp_path / f"x.{ending}").write_bytes(data)
    (picture,), seconds, _, facts = read(tmp_path / f"x.{ending}")
    with Image.open(io.BytesIO(data)) as expected:
        assert (picture.mode, picture.size) == (expected.mode, expected.size)
        assert np.array_equal(np.array(picture), np.array(expected))
        assert facts["format"] == expected.format
    assert seconds == [0.0]
    assert f".{ending}" in image_suffixes()
    assert np.array(picture.convert("RGB")).shape == (picture.height, picture.width, 3)


def test_endings_are_of_what_can_be_decoded():
    assert {".jpg", ".jpeg", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ico"} <= image_suffixes()
    assert not {".pdf", ".eps", ".mpg", ".mpeg", ".wmf", ".h5"} & image_suffixes()


def test_the_name_does_not_matter(tmp_path):
    (tmp_path / "photo.txt").write_bytes(encoded(NOISE, "png"))
    assert read(tmp_path / "photo.txt")[3]["format"] == "PNG"


@pytest.mark.parametrize("ending", ANIMATIONS)
def test_frames_of_animations_have_the_times_of_the_file(tmp_path, ending):
    pictures, seconds, _, facts = read(animation(tmp_path / f"x.{ending}", [100, 300, 700]))
    assert seconds == pytest.approx([0, 0.1, 0.4])
    assert facts["frames"] == 3
    for picture, colour in zip(pictures, COLOURS, strict=True):
        assert np.abs(np.array(picture.convert("RGB"))[8, 8].astype(int) - colour).max() < 12


def test_frames_of_almost_no_duration_count_as_100_ms(tmp_path):
    assert read(animation(tmp_path / "x.gif", [0, 10, 20]))[1] == pytest.approx([0, 0.1, 0.2])
    assert read(animation(tmp_path / "x.png", [0, 0, 0]))[1] == pytest.approx([0, 0.1, 0.2])


def test_frames_are_composed(tmp_path):
    """A GIF stores what changes only."""
    frames = [Image.new("RGB", (32, 32), "red") for _ in range(2)]
    frames[1].paste("blue", (4, 4, 8, 8))
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    pictures = read(tmp_path / "x.gif")[0]
    assert [p.convert("RGB").getpixel((20, 20)) for p in pictures] == [(255, 0, 0)] * 2
    assert pictures[1].convert("RGB").getpixel((5, 5)) == (0, 0, 255)


def test_still_image_of_an_animated_png_is_no_frame_of_it(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in COLOURS]
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", save_all=True, append_images=frames, default_image=True)
    pictures, _, (warning,), _ = read(tmp_path / "x.png")
    assert [picture.getpixel((0, 0)) for picture in pictures] == COLOURS
    assert "left out" in warning


def test_only_the_first_page_is_used(tmp_path):
    NOISE.save(tmp_path / "x.tif", save_all=True, append_images=[Image.new("RGB", (5, 5))] * 2)
    (picture,), _, warnings_, _ = read(tmp_path / "x.tif")
    assert np.array_equal(np.array(picture), np.array(NOISE))
    assert warnings_ == ["3 pages in this TIFF: only the first is used"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "webp"])
def test_exif_orientation(tmp_path, orientation, ending):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    NOISE.save(tmp_path / f"x.{ending}", exif=exif, lossless=True)
    with Image.open(tmp_path / f"x.{ending}") as image:
        turned = np.array(ImageOps.exif_transpose(image))
    (picture,), _, _, facts = read(tmp_path / f"x.{ending}", exif_orientation=True)
    assert np.array_equal(np.array(picture), turned)
    assert facts["exif_orientation"] == orientation
    assert np.array_equal(np.array(read(tmp_path / f"x.{ending}")[0][0]), np.array(NOISE))


@pytest.mark.parametrize("exif", [b"Exif\0\0 nonsense", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"])
def test_broken_exif_data_do_not_matter(tmp_path, exif):
    NOISE.save(tmp_path / "x.jpg", exif=exif)
    (picture,), _, warnings_, facts = read(tmp_path / "x.jpg", exif_orientation=True)
    assert picture.size == NOISE.size
    assert facts["exif_orientation"] == 1
    assert bool(warnings_) == (b"nonsense" not in exif)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_clipped_values_are_told(tmp_path, mode):
    for scale, expected in ((200, []), (60000, ["are clipped"])):
        pixels = np.linspace(0, scale, 600).reshape(20, 30)
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        Image.fromarray(pixels.astype(kind)).save(tmp_path / "x.tif")
        (picture,), _, warnings_, _ = read(tmp_path / "x.tif")
        assert all(part in text for part, text in zip(expected, warnings_, strict=True))
        assert np.array(picture.convert("RGB")).max() == min(255, scale)


def test_transparent_palette_gives_no_raw_warning(tmp_path):
    palette = NOISE.quantize(8)
    palette.save(tmp_path / "x.png", transparency=bytes([0, 100, 255, 255, 255, 255, 255, 255]))
    (picture,), *_ = read(tmp_path / "x.png")
    assert np.array_equal(np.array(picture.convert("RGB")), np.array(palette.convert("RGB")))


def tiff_with_odd_tag() -> bytes:
    """Pillow warns of it: a tag that should hold one value holds two."""
    file = io.BytesIO()
    NOISE.save(file, "TIFF", tiffinfo={ExifTags.Base.Orientation: 1})
    data = bytearray(file.getvalue())
    at = data.index(ExifTags.Base.Orientation.to_bytes(2, "little") + b"\x03\0")
    data[at + 4] = 2
    return bytes(data)


def test_pillows_warnings_are_kept_and_not_shown(tmp_path, capfd):
    (tmp_path / "x.tif").write_bytes(tiff_with_odd_tag())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert any("Metadata Warning" in text for text in read(tmp_path / "x.tif")[2])
    assert capfd.readouterr().err == ""


def test_large_images_and_bombs(tmp_path, monkeypatch):
    NOISE.save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    assert read(tmp_path / "x.png")[2] == ["a very large image, 30 x 20 pixels"]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(MediaError, match=r"x\.png: 600 pixels are too many, the limit is 400"):
        open_image(tmp_path / "x.png")


JPEG = encoded(NOISE, "jpg")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"this is a text", "not an image of any known format, it starts with b'this is a text'"),
        (b"\xff\xd8\xff\xe0 nothing", "not an image|damaged"),
        (JPEG[: len(JPEG) * 2 // 3], "damaged image .*truncated"),
        (encoded(NOISE, "png")[:800], "damaged image"),
        (encoded(NOISE, "bmp")[:500], "damaged image"),
        (encoded(NOISE, "ppm")[:500], "damaged image"),
        (b"P6 0 0 255\n", "not an image|damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    ],
)
def test_bad_files_have_a_reason(tmp_path, data, reason):
    (tmp_path / "x.jpg").write_bytes(data)
    with pytest.raises(MediaError, match=rf"x\.jpg: .*({reason})"):
        read(tmp_path / "x.jpg")
    with pytest.raises(MediaError, match=r"^photos\.zip/x: "):
        load_image(data, "photos.zip/x")


def test_what_is_no_file(tmp_path):
    (tmp_path / "broken").symlink_to(tmp_path / "gone")
    for name, reason in [("gone.jpg", "no such file"), ("broken", "no such file"), ("", "found a folder")]:
        with pytest.raises(MediaError, match=reason):
            open_image(tmp_path / name)
    with pytest.raises(MediaError, match="cannot be read"):
        open_image("a\0b.png")


def test_no_permission(tmp_path, monkeypatch):
    def refuse(path, flags):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "x.png").touch()
    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(MediaError, match=r"x\.png: cannot be read \(Permission denied\)"):
        open_image(tmp_path / "x.png")


# How many of 60 damaged files can be read all the same, at least (measured: twice as many). A PNG has a checksum for
# every part, and the Photoshop file is none from the beginning.
READABLE = {"jpg": 11, "png": 0, "gif": 17, "webp": 10, "tif": 8, "bmp": 13, "tga": 19, "ico": 1, "jp2": 7, "ppm": 14}


@pytest.mark.parametrize("ending", [*READABLE, "psd"])
def test_damage_of_any_kind_is_one_error(tmp_path, ending):
    """Whatever bytes are changed: an image, or a MediaError, and never a warning. Both happen."""
    random_ = random.Random(ending)
    good = encoded(NOISE, ending) if ending in READABLE else b"8BPS\0\1" + encoded(NOISE, "png")
    (tmp_path / "good").write_bytes(good)
    if ending in READABLE:
        assert len(read(tmp_path / "good", exif_orientation=True)[0]) == 1
    num_read, num_refused = 0, 0
    for _ in range(60):
        data = bytearray(good)
        for _ in range(random_.choice([1, 3, 20])):
            data[random_.randrange(min(len(data), random_.choice([40, 400, 4000])))] = random_.randrange(256)
        (tmp_path / "x").write_bytes(data)
        try:
            assert read(tmp_path / "x", exif_orientation=True)[0]
            num_read += 1
        except MediaError:
            num_refused += 1
    assert num_read >= READABLE.get(ending, 0)
    assert num_refused >= 10


def test_threads_keep_their_warnings_apart(tmp_path):
    paths = []
    for k in range(40):
        path = tmp_path / f"{k}.{'tif' if k % 2 else 'png'}"
        path.write_bytes(tiff_with_odd_tag() if k % 2 else encoded(NOISE, "png"))
        paths.append(path)
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(read, paths))
    for k, (pictures, _, texts, _) in enumerate(results):
        assert bool(texts) == bool(k % 2)
        assert np.array_equal(np.array(pictures[0]), np.array(NOISE))
    assert list(warnings.filters) == before


def test_a_replaced_file_stays_what_was_opened(tmp_path):
    animation(tmp_path / "x.gif", [100, 100, 100])
    with open_image(tmp_path / "x.gif") as image:
        shutil.copy(animation(tmp_path / "y.gif", [50, 50, 50], loop=3), tmp_path / "x.gif")
        (tmp_path / "x.gif").write_bytes(b"")
        assert len(list(image)) == 3


def test_the_first_frame_alone(tmp_path):
    animation(tmp_path / "x.gif", [100, 100, 100])
    picture = load_image(tmp_path / "x.gif")
    assert picture.convert("RGB").getpixel((0, 0)) == COLOURS[0]
    assert load_image(JPEG).size == NOISE.size


@pytest.mark.shared
@pytest.mark.parametrize("name", shared_files("parity/images"))
def test_parity_images(name):
    path = PARITY / "images" / name
    if path.name.startswith("bad_"):
        reason = {"bad_empty.png": "empty", "bad_text.jpg": "not an image", "bad_truncated.jpg": "truncated"}[path.name]
        with pytest.raises(MediaError, match=reason):
            read(path)
        return
    pictures, _, texts, _ = read(path)
    with Image.open(path) as official:
        assert np.array_equal(np.array(pictures[0]), np.array(official))
    assert len(pictures) == (3 if path.name == "anim3.gif" else 1)
    assert bool(texts) == (path.name == "grey16.png")


@pytest.mark.shared
def test_all_images_of_the_data_sets():
    paths = [path for path in (SHARED / "data").rglob("*") if path.suffix.lower() in image_suffixes()]
    failed = {}
    for path in paths:
        try:
            read(path)
        except MediaError as error:
            failed[path.name] = str(error)
    assert len(paths) > 130
    assert list(failed) == ["truncated.jpg"]


@pytest.mark.shared
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_turned_photos_show_the_same(orientation):
    folder = SHARED / "data" / "recurser__exif-orientation-examples"
    (one,), *_ = read(folder / "Landscape_1.jpg")
    (other,), *_ = read(folder / f"Landscape_{orientation}.jpg", exif_orientation=True)
    one, other = (np.array(each.convert("RGB").resize((60, 45))).astype(int) for each in (one, other))
    assert np.abs(one - other).mean() < 4
