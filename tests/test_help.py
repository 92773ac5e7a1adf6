"""`--help`: every key of every job with its default and meaning, as wide as the screen, without waiting for PyTorch."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.shared_data import ROOT
from utils.command_line import known_keys
from utils.errors import UserError
from utils.help_page import help_page
from utils.job_keys import described, job_names

JOBS = job_names()


def plain(job: str) -> str:
    return help_page(["--config-name", job, "--help"])


@pytest.mark.parametrize("job", JOBS)
def test_every_key_and_option_and_job_is_there_on_a_line(job: str) -> None:
    page, told = plain(job), described(job)
    lines = page.splitlines()
    assert lines[0] == f"{job}: {told.summary}"
    assert "\033" not in page
    named = {line.split("=")[0].strip() for line in lines if "=" in line}
    assert known_keys(job)[0] - named == {key.name for key in told.keys if key.default == "{}"}
    for group in told.groups:
        assert all(option in page for option in group.options)
    for key in told.keys:
        assert key.default == "{}" or key.meaning in page
    assert all(f"\n  {other} " in page for other in JOBS)
    assert told.commands
    assert page.count("python main.py") >= 2 + len(told.commands)


def test_the_job_without_a_name_has_three_commands() -> None:
    assert help_page(["-h"]) == help_page(["--help"]) == plain("extract")
    assert len(described("extract").commands) == 3
    with pytest.raises(UserError, match="--config-name trian: no such job; did you mean train"):
        help_page(["--config-name=trian", "--help"])


@pytest.mark.parametrize(("columns", "colours"), [(120, True), (80, False), (50, True)])
def test_a_screen_has_colours_and_a_width(columns: int, colours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "" if colours else "1")
    page = plain("train")
    assert ("\033[36mvision.width\033[0m\033[2m=768" in page) == colours
    shown = re.sub("\033\\[[0-9]+m", "", page)
    long = [line for line in shown.splitlines() if len(line) >= columns]
    assert all(len(line.split()) <= 1 or "python main.py" in line for line in long), long
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert re.sub(r"\s+", "", shown) == re.sub(r"\s+", "", plain("train"))


def test_it_comes_without_pytorch(tmp_path: Path) -> None:
    asked = ["--config-name", "train", "vision=mixer", "--help"]
    script = (
        "import runpy, sys\n"
        f"sys.argv = {['main.py', *asked]}\nsys.path.insert(0, {str(ROOT)!r})\n"
        f"try:\n    runpy.run_path({str(ROOT / 'main.py')!r}, run_name='__main__')\n"
        "finally:\n    print('torch' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "False\n")
    assert done.stdout == help_page(asked)
    assert "\n  vision.patch_size=32\n" in plain("train")
    assert "\n  text.context_length=77 " in done.stdout
    assert "\n  vision=mixer " in done.stdout
