"""`--config-name plan`: what it says is what a run then does."""

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import call

from store.ledger import Ledger
from tests.helpers.configs import composed
from tests.helpers.shared_data import ROOT
from utils.types import Item

SAMPLE = ROOT / "sample"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two videos, four pictures, and one of each that is none."""
    shutil.copytree(SAMPLE, tmp_path / "in")
    (tmp_path / "in" / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "in" / "bad.jpg").write_bytes(b"no picture")
    return tmp_path


def run(job: str, folder: Path, tiny: Path, *given: str) -> int:
    config = composed(
        job,
        *(f"video_paths={folder / 'in'}", f"image_paths={folder / 'in'}", "texts=[a, b]", "workers=0"),
        *(f"model_name={tiny}", "device=cpu", "extraction_fps=2", f"output_path={folder / 'out'}", *given),
    )
    return call(config.job, _convert_="all")


def planned(folder: Path, tiny: Path, *given: str) -> dict[str, Any]:
    status = run("plan", folder, tiny, "probe_seconds=0", f"report={folder / 'plan.json'}", *given)
    content = json.loads((folder / "plan.json").read_bytes())
    assert status == int(not content["ok"])
    return content


def on_disk(folder: Path) -> int:
    """Of the results themselves; sizes of folders differ between file systems."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("form", ["save_numpy", "save_npz", "save_pickle", "[save_numpy, save_npz]"])
def test_a_run_does_what_was_planned(folder: Path, tiny: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = (f"on_extraction={form}",)
    content = planned(folder, tiny, *given)
    kinds = content["kinds"]
    assert {kind: (each["files"], each["to_do"], each["rows"]) for kind, each in kinds.items()} == {
        "video": (3, 2, 32),
        "image": (5, 4, 4),
        "text": (1, 1, 2),
    }
    assert not (folder / "out").exists()
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[1:5]] == ["videos", "images", "texts", "total"]
    assert len({len(line) for line in printed.splitlines()[1:5]}) == 1  # columns stand under each other
    assert printed.count("\nunreadable: ") == 2
    assert "bad.mp4: cannot be opened as a video" in printed
    assert run("extract", folder, tiny, *given) == 1
    (folder / "out" / "ledger.jsonl").unlink()
    assert content["needed_bytes"] == pytest.approx(on_disk(folder / "out"), rel=0.05)
    again = planned(folder, tiny, *given)
    assert {kind: (each["done"], each["to_do"]) for kind, each in again["kinds"].items()} == {
        "video": (2, 0),
        "image": (4, 0),
        "text": (1, 0),
    }
    assert again["needed_bytes"] == 0


def test_all_is_well(folder: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("bad.mp4", "bad.jpg"):
        (folder / "in" / name).unlink()
    assert planned(folder, tiny)["ok"]
    assert "nothing is saved: give on_extraction=save_numpy" in capsys.readouterr().out


def test_hdf5_takes_twice_the_room_while_it_is_put_together(folder: Path, tiny: Path) -> None:
    content = planned(folder, tiny, "on_extraction=save_hdf5")
    final = sum(each["bytes"] for each in content["kinds"].values())
    assert content["needed_bytes"] > 2 * final > 0


def test_a_disk_that_is_too_small(
    folder: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bad.mp4", "bad.jpg"):
        (folder / "in" / name).unlink()
    asked = []
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("apps.plan.shutil.disk_usage", lambda path: asked.append(path) or usage(0, 0, 5000))
    content = planned(folder, tiny, "on_extraction=save_numpy", f"output_path={folder / 'a' / 'b'}")
    assert not content["ok"]
    assert asked == [folder]
    assert "5.0 kB are free: " in (printed := capsys.readouterr().out)
    assert printed.rstrip().endswith(" ARE MISSING")


def test_only_what_is_listed_as_failed(folder: Path, tiny: Path) -> None:
    out = folder / "out"
    ledger = Ledger(out / "ledger.jsonl", settings={"video": {"folder": f"clip/{tiny.stem}"}})
    for name in ("v_GGSY1Qvo990", "v_ZNVhz7ctTq0"):
        path = folder / "in" / f"{name}.mp4"
        ledger.add(Item(path, name), "failed", reason=f"{path}: the decoder crashed", crashed=name[2] == "G")
    given = ("on_extraction=save_numpy", "retry_failed=true")
    assert [each["files"] for each in planned(folder, tiny, *given)["kinds"].values()] == [2, 0, 0]
    problems = planned(folder, tiny, given[0])["kinds"]["video"]["unreadable"]
    assert [os.path.basename(path) for path in problems] == ["v_GGSY1Qvo990.mp4", "bad.mp4"] or len(problems) == 2


def test_how_long_it_takes(folder: Path, tiny: Path) -> None:
    """Measured with the real thing; how well is in benchmarks/results.md."""
    before = set(folder.rglob("*"))
    content = planned(folder, tiny, "probe_seconds=0.3", "on_extraction=save_numpy")
    assert all(0 < each["takes_seconds"] < 100 for each in content["kinds"].values())
    assert set(folder.rglob("*")) - before == {folder / "plan.json"}
