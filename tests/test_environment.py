"""What surrounds a run: wrong values on the command line, closed streams, no home, few files, other languages.

Few processes, each for several cases: to start one takes seconds.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.shared_data import ROOT


@pytest.mark.timeout(300)
def test_a_wrong_value_for_any_key_is_one_line(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "tests.helpers.wrong_values"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["amiss"] == []
    assert found["jobs"] == len(list((ROOT / "configs").glob("*.yaml")))
    assert found["cases"] > 500
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="streams, limits and folders as on POSIX")
@pytest.mark.timeout(300)  # four programs, one after another
def test_surroundings(tiny: Path, tmp_path: Path) -> None:
    """Closed streams, 32 files, no environment at all, an output that nobody reads, and a folder that is gone."""
    (tmp_path / "gone").mkdir()
    for name in ("a.jpg", os.fsdecode(b"caf\xe9.jpg"), "日本.jpg"):
        (tmp_path / name).write_bytes((ROOT / "sample" / "cat.jpg").read_bytes())
    run = f"'{sys.executable}' '{ROOT / 'main.py'}' 'model_name={tiny}' device=cpu"
    save = f"env -i LC_ALL=C TERM=dumb COLUMNS=1 HOME=/nowhere {run} image_paths=. on_extraction=save_numpy"
    script = f"""
        (ulimit -n 32; {save} output_path=closed <&- >&- 2>&-); echo "closed $?"
        ({run} image_paths=a.jpg on_extraction=[print,save_numpy] output_path=head; echo "head $?" >&2) | head -0
        ({run} image_paths=a.jpg; echo "print $?" >&2) | head -0
        (cd gone; rmdir ../gone; {run} image_paths=a.jpg; echo "gone $?")
    """
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout.splitlines() == ["closed 0", "gone 1"], done.stderr
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith(("head ", "print "))] == ["head 0", "print 141"], done.stderr
    assert sum(line.startswith("error: the current folder is gone") for line in lines) == 1
    assert len(list((tmp_path / "closed").rglob("*_clip.npy"))) == 3
    assert len(list((tmp_path / "head").rglob("*_clip.npy"))) == 1
