"""Standard streams that nobody reads, or that are full."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from utils.streams import open_all, stdout_is_gone
open_all()
saved = 0
for number in range(5):
    print("message", number, file=sys.stderr, flush=True)
    try:
        print("x" * 100_000, flush=True)
    except OSError as error:
        stdout_is_gone(error, saving=SAVING)
    saved += 1
sys.exit(10 + saved)
"""
ROOT = Path(__file__).resolve().parents[1]


def run(tmp_path: Path, after: str, *, saving: bool) -> tuple[int, list[str]]:
    (tmp_path / "program.py").write_text(PROGRAM.replace("SAVING", str(saving)))
    line = f"{sys.executable} {tmp_path / 'program.py'} {after}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    return done.returncode, [each for each in done.stderr.splitlines() if not each.startswith("message")]


@pytest.mark.parametrize(
    ("after", "alone", "lines"),
    [
        ("| head -c 1 > /dev/null", 141, []),
        ("2>&1 | head -c 1 > /dev/null", 141, []),
        ("> /dev/full", 1, ["error: standard output: No space left on device"]),
        (">&-", 15, []),
    ],
)
def test_it_is_told_once_and_what_is_saved_goes_on(after: str, alone: int, lines: list[str], tmp_path: Path) -> None:
    assert run(tmp_path, after, saving=False) == (alone, lines)
    assert run(tmp_path, after, saving=True) == (15, [f"{each}; what is saved goes on without it" for each in lines])
