"""Jobs as users run them, told to end in the middle: the account, the status, and nothing left over."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.shared_data import ROOT
from tests.helpers.small_data import jpeg, write_csv

Ready = Callable[[], bool]


def told_to_end(number: int, ready: Ready, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "main.py"), *arguments]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=folder, **streams, env=environment, preexec_fn=_heed_ctrl_c) as process:
        try:
            end = time.monotonic() + 90
            while not ready() and process.poll() is None and time.monotonic() < end:
                time.sleep(0.01)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert "Traceback" not in err, err
    return subprocess.CompletedProcess(command, process.returncode, "", err)


def _heed_ctrl_c() -> None:
    """A shell's background jobs, and all below them, begin with it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def left_over(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix == ".part" or path.name in (".locks", ".running")]


def copies(folder: Path, number: int) -> Path:
    folder.mkdir()
    for k in range(number):
        (folder / f"{k:04}.jpg").write_bytes(jpeg(0))
    return folder


def many(folder: Path, pattern: str, number: int) -> Ready:
    return lambda: sum(1 for _ in folder.rglob(pattern)) >= number


@pytest.mark.timeout(240)
def test_extract_and_convert(tiny: Path, tmp_path: Path) -> None:
    images, out = copies(tmp_path / "images", 2000), tmp_path / "out"
    given = (f"model_name={tiny}", "device=cpu", f"image_paths={images}", "on_extraction=save_numpy", "output_path=out")
    stopped = told_to_end(signal.SIGTERM, many(out, "*_meta.json", 20), tmp_path, *given)
    assert stopped.returncode == 143, stopped.stderr
    assert "interrupted; what is finished is kept" in stopped.stderr
    end = json.loads((out / "ledger.jsonl").read_text().splitlines()[-1])
    assert end["event"] == "end"
    assert 20 <= end["counts"]["done"] == len(list(out.rglob("*_meta.json"))) < 2000
    assert f"{2000 - end['counts']['done']} of 2000 items are left undone" in stopped.stderr
    assert left_over(out) == []

    given = ("--config-name", "convert", "input_path=out", "on_extraction=save_pickle", "output_path=other")
    stopped = told_to_end(signal.SIGHUP, many(tmp_path / "other", "*_meta.json", 3), tmp_path, *given)
    assert stopped.returncode == 129, stopped.stderr
    assert " done (listed in other/ledger.jsonl)" in stopped.stderr
    assert "stopped (SIGHUP)" in stopped.stderr
    assert left_over(tmp_path / "other") == []


@pytest.mark.timeout(240)  # two times PyTorch, on a busy machine
def test_train(tmp_path: Path) -> None:
    pairs = write_csv(tmp_path / "data", count=12)
    small = ("vision.resolution=32", "vision.patch_size=16", "vision.width=32", "vision.layers=1", "vision.heads=1")
    small += ("text.width=32", "text.layers=1", "text.heads=1", "embed_dim=16", "batch_size=4", "epochs=5000")
    given = (f"data_path={pairs}", f"image_folder={pairs.parent / 'images'}", "device=cpu", *small)
    ready = many(tmp_path / "run", "last.pt", 1)
    stopped = told_to_end(signal.SIGINT, ready, tmp_path, "--config-name", "train", *given, "output_path=run")
    assert stopped.returncode == 130, stopped.stderr
    assert "the same command goes on from run/last.pt" in stopped.stderr
    assert left_over(tmp_path / "run") == []
