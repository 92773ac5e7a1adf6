"""Image search: every picture once, best first, and a contact sheet that holds them."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from apps.contact_sheet import CELL_PX, GAP_PX, contact_sheet, font, sheet_size, shortened
from apps.search import ImageIndex, file_names, search
from models.load import ModelChoice
from tests.helpers.shared_data import ROOT
from tests.helpers.stand_in import mean_colour, stand_in
from tests.helpers.tiny_clip import write_tiny_checkpoint
from utils.errors import UserError

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (128, 128, 128)}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (60, 40), colour).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pt")


def test_nearest_come_first(photos):
    index = ImageIndex.build(stand_in(picture=mean_colour), sorted(photos.iterdir()))
    matches = index.find(np.array([5.0, 0.5, 0], dtype=np.float32), top=3)
    assert [match.path.stem for match in matches] == ["red", "grey", "green"]
    assert [match.rank for match in matches] == [1, 2, 3]
    assert matches[0].score == pytest.approx(5 / np.hypot(5, 0.5), abs=1e-6)


def test_copies_and_broken_files_are_left_out(photos, capsys):
    shutil.copy(photos / "red.png", photos / "copy.png")
    (photos / "broken.png").write_bytes((photos / "red.png").read_bytes()[:50])
    index = ImageIndex.build(stand_in(picture=mean_colour), sorted(photos.iterdir()))
    assert [path.stem for path in index.paths] == ["blue", "copy", "green", "grey"]
    assert "broken.png" in capsys.readouterr().err


def test_no_picture_at_all(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(UserError, match="none of the 1 images"):
        ImageIndex.build(stand_in(), [tmp_path / "broken.png"])


def test_search_writes_a_sheet_and_json_for_each_query(photos, checkpoint, tmp_path, capsys):
    status = search(
        query=["a red thing", "a red thing?"],
        image_paths=str(photos),
        top=3,
        columns=2,
        output_path=tmp_path / "out",
        model=ModelChoice(model_name=str(checkpoint), device="cpu"),
    )
    assert status == 0
    assert "a red thing?" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"a_red_thing.png", "a_red_thing.json", "a_red_thing_2.png", "a_red_thing_2.json"}
    found = json.loads((tmp_path / "out" / "a_red_thing_2.json").read_text())
    assert found["query"] == "a red thing?"
    assert [match["rank"] for match in found["matches"]] == [1, 2, 3]
    scores = [match["score"] for match in found["matches"]]
    assert scores == sorted(scores, reverse=True)
    with Image.open(tmp_path / "out" / "a_red_thing.png") as sheet:
        assert sheet.size == sheet_size(3, 2)


def test_command_line(photos, checkpoint, tmp_path):
    command = [sys.executable, str(ROOT / "main.py"), "--config-name", "search", "query=a cat on a sofa", "top=2"]
    done = subprocess.run(
        [*command, "image_paths=photos", f"model_name={checkpoint}", "device=cpu", "output_path=out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "a_cat_on_a_sofa.png").is_file()


def test_a_query_is_needed(photos):
    with pytest.raises(UserError, match="query: expected a text"):
        search(query=" ", image_paths=str(photos), model=ModelChoice(model_name="tiny"))


def test_file_names():
    assert file_names(["A cat!", "a cat", "/etc/../x", "???", "日本"]) == ["a_cat", "a_cat_2", "etc_x", "query", "日本"]


def centre(index: int, *, columns: int) -> tuple[int, int]:
    """Of a picture's cell, in pixels; the rows above it end where a sheet of them would."""
    row, column = divmod(index, columns)
    left, top = GAP_PX + column * (CELL_PX + GAP_PX), sheet_size(row * columns, columns)[1]
    return left + CELL_PX // 2, top + CELL_PX // 2


def test_sheet_shows_each_picture_in_its_cell():
    pictures = [Image.new("RGB", (400, 400), colour) for colour in COLOURS.values()]
    sheet = contact_sheet(pictures, [(name, "0.5") for name in COLOURS], title="colours", columns=3)
    assert sheet.size == sheet_size(4, 3)
    assert sheet.width > 3 * CELL_PX
    found = {colour for _, colour in sheet.getcolors(1 << 20) or []}
    assert set(COLOURS.values()) <= found
    red, blue = sheet.getpixel((30, 80)), sheet.getpixel((sheet.width - 30, 80))
    assert (red, blue) == (COLOURS["red"], COLOURS["blue"])


@pytest.mark.parametrize("size", [(1, 1), (900, 20), (20, 900)])
def test_sheet_takes_any_kind_of_picture(size):
    kinds = [
        (Image.new("L", size, 200), (200, 200, 200)),
        (Image.new("RGB", size, (0, 51, 102)).quantize(), (0, 51, 102)),
        (Image.new("RGBA", size, (255, 0, 0, 255)), (255, 0, 0)),
        (Image.new("CMYK", size, (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("I;16", size, 0), (0, 0, 0)),
        (Image.new("1", size, 0), (0, 0, 0)),
    ]
    pictures = [picture for picture, _ in kinds]
    sheet = contact_sheet(pictures, [("name", "0")] * len(kinds), title="kinds", columns=5)
    assert [sheet.getpixel(centre(k, columns=5)) for k in range(len(kinds))] == [colour for _, colour in kinds]


def test_transparent_is_white():
    sheet = contact_sheet([Image.new("RGBA", (200, 200), (255, 0, 0, 0))], [("", "")], title="", columns=1)
    assert sheet.getcolors() == [(sheet.width * sheet.height, (255, 255, 255))]


def test_long_names_are_cut_to_fit():
    text = shortened("a very long name " * 20, CELL_PX, 14)
    assert text.endswith("…")
    assert font(14).getlength(text) <= CELL_PX
