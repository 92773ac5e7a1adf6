"""A bar for people, lines for files."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from tests.helpers.shared_data import ROOT
from utils.progress_bar import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock to be moved by hand: its last element."""
    times = [1000.0]
    for clock in ("tqdm.std.time", "utils.progress_bar.time"):
        monkeypatch.setattr(clock, lambda: times[-1])
    return times


def test_lines_come_every_30_seconds_and_at_the_end(seconds: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    for _ in progress_bar(range(100), "reading", unit=" files"):
        seconds.append(seconds[-1] + 1)
    lines = file.getvalue().splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        "reading: 30 of 100 files",
        "reading: 60 of 100 files",
        "reading: 90 of 100 files",
        "reading: 100 files in 01:40",
    ]
    assert lines[0].endswith(" 1.00 files/s, 01:10 left")
    assert "\r" not in file.getvalue()


def test_what_else_is_written_brings_no_line_forward(seconds: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    with progress_bar(title="0/3 files", unit=" frames") as bar:
        for k in range(5):
            bar.update(10)
            bar.set_description(f"{k}/3 files")
            tqdm.write("a message", file=sys.stderr)  # lifts bars out of the way
        seconds.append(1031.0)
        bar.set_postfix_str("waits for decoding 80%", refresh=False)
        bar.update(10)
    assert file.getvalue().splitlines() == [
        *["a message"] * 5,
        *["4/3 files: 60 frames in 00:31, 1.94 frames/s, waits for decoding 80%"] * 2,
    ]


@pytest.mark.parametrize(("passed", "number"), [(0.0, 0), (14.0, 0), (31.0, 3)])
def test_what_passes_is_told_if_it_takes_long(
    seconds: list[float], monkeypatch: pytest.MonkeyPatch, passed: float, number: int
) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    for _ in progress_bar(range(2), "drawing", passing=True):
        seconds.append(seconds[-1] + passed)
    assert len(file.getvalue().splitlines()) == number


def test_nothing_done_is_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    progress_bar(title="0/0 files", unit=" frames", first=5).close()
    assert file.getvalue() == ""


def test_a_terminal_has_its_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: None)  # that of the terminal the tests run on
    for _ in progress_bar(range(3), "reading", unit=" files"):
        pass
    progress_bar(title="drawing").close()
    assert terminal.getvalue().startswith("\rreading:   0%|")
    assert "| 3/3 [" in terminal.getvalue()
    assert "\rdrawing: 0 [" in terminal.getvalue()


def test_without_stderr_nothing_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert list(progress_bar(range(3), "reading")) == [0, 1, 2]


def test_no_other_bars() -> None:
    """All are made by `progress_bar`."""
    files = [path for path in ROOT.rglob("*.py") if not {"tests", ".venv"} & set(path.relative_to(ROOT).parts)]
    assert len(files) > 100
    assert [path for path in files if re.search(r"\b(tqdm|trange)\(", path.read_text(encoding="utf-8"))] == []


def test_a_run_into_a_file_leaves_a_few_lines(tmp_path: Path) -> None:
    images = ",".join(str(path) for path in sorted((ROOT / "sample").glob("*.jpg")))
    command = [sys.executable, str(ROOT / "main.py"), "model_name=tiny", "device=cpu", "on_extraction=save_numpy"]
    command += [f"image_paths=[{images}]", f"video_paths={ROOT / 'sample'}", "extraction_fps=2"]
    with (tmp_path / "log").open("wb") as log:
        subprocess.run(command, cwd=tmp_path, stderr=log, check=True, timeout=120)
    data = (tmp_path / "log").read_bytes()
    assert b"\r" not in data
    lines = data.decode().splitlines()
    assert len(lines) <= 8, lines
    (frames,) = [line for line in lines if " frames in " in line]
    assert frames.startswith("2/2 files: ")
    assert " frames/s, waits for " in frames
    assert any(line.startswith("4/4 files: 4 images in ") for line in lines)
    assert lines[-1] == "6 done (listed in output/ledger.jsonl)"
