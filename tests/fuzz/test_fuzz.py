"""Damage, random words, kills and failing files: nothing but results or one line comes out (`python -m tests.fuzz`)."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import mutate
from tests.fuzz.jobs import differences, left_behind, results
from tests.helpers.shared_data import ROOT
from tests.helpers.small_data import write_images

OUTCOMES = """
import json, os, signal, time
from tests.fuzz.forks import outcomes

def run(number):
    if number == 1: os.kill(os.getpid(), signal.SIGSEGV)
    if number == 2: time.sleep(60)
    if number == 3: raise LookupError("no such thing")
    if number == 4: return "x" * 4_000_000_000
    return "done"

print(json.dumps(sorted(outcomes(range(6), run, processes=2, limit_seconds=1))))
"""


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    """On one thread: what is forked here may not have any."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace")


@pytest.mark.timeout(300)
def test_nothing_untoward_comes_out() -> None:
    done = program("-m", "tests.fuzz")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_crashes_hangs_and_errors_are_counted() -> None:
    done = program("-c", OUTCOMES)
    found = dict(json.loads(done.stdout))
    assert found.pop(3).startswith("error: LookupError at ")
    assert found == {0: "done", 1: "crashed: signal 11", 2: "hung", 4: "out of memory", 5: "done"}


def test_what_differs_and_what_is_left_behind_is_told(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_images(tmp_path / name, 3)
        (tmp_path / name / "a_meta.json").write_text(json.dumps({"saved": name, "files": {}}))
    assert differences(results(tmp_path / "one"), results(tmp_path / "two")) == []
    (tmp_path / "two" / "000.jpg").write_bytes(b"other")
    (tmp_path / "two" / "001.jpg").unlink()
    (tmp_path / "two" / ".002.jpg.0011.part").touch()
    found = results(tmp_path / "two")
    assert left_behind(found) == [".002.jpg.0011.part"]
    assert differences(results(tmp_path / "one"), found) == [
        "left behind: .002.jpg.0011.part",
        "missing: 001.jpg",
        "other content: 000.jpg",
    ]


def test_a_case_is_the_same_every_time_and_reaches_the_pieces_of_a_format() -> None:
    box = b"\0\0\0\x10ftypisom\0\0\0\0"
    data = box + b"\0\0\0\x18moov" + box
    assert mutate.find_pieces(data) == [mutate.Piece(0, 8, 16), mutate.Piece(16, 24, 40), mutate.Piece(24, 32, 40)]
    files = [(Path("a.mp4"), data), (Path("b.mp4"), data * 3)]
    cases = [mutate.case(files, 1, number) for number in range(200)]
    assert cases == [mutate.case(files, 1, number) for number in range(200)]
    assert {wound for _, _, wounds in cases for wound in wounds.split("+")} == {
        each.__name__ for each in (*mutate.BLIND, *mutate.STRUCTURED)
    }
    assert sum(changed != data for path, changed, _ in cases if path.name == "a.mp4") > 80
    assert mutate.mutate(b"", random.Random(0), [b""])[0] is not None
