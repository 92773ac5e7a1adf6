"""The ledger: counts, exit status, and lines that survive kills and other processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from store.ledger import Ledger
from utils.errors import UserError
from utils.types import Item

ROOT = Path(__file__).parents[2]


def item(name: str) -> Item:
    return Item(Path(f"videos/{name}.mp4"), name)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_file_holds_the_run_every_item_and_the_end(tmp_path: Path) -> None:
    path = tmp_path / "output" / "ledger.jsonl"
    ledger = Ledger(path, settings={"model_name": "tiny", "total": (1, 2)})
    assert not path.exists()  # nothing happened yet
    ledger.add(item("a b ü\n"), "done", rows=3, seconds=0.12345)
    assert [line["event"] for line in lines(path)] == ["run", "item"]  # known now, not at the end
    ledger.add(item("b"), "failed", reason="b.mp4: no video stream", warnings=["x"])
    ledger.finish()
    run, first, second, end = lines(path)
    assert run["settings"] == {"model_name": "tiny", "total": [1, 2]}
    assert {line["run"] for line in lines(path)} == {ledger.run}
    assert all(line["time"] for line in lines(path))
    assert (first["path"], first["item"], first["status"]) == ("videos/a b ü\n.mp4", "a b ü\n", "done")
    assert (first["rows"], first["seconds"]) == (3, 0.123)
    assert (second["reason"], second["warnings"]) == ("b.mp4: no video stream", ["x"])
    assert end["counts"] == {"done": 1, "failed": 1}


@pytest.mark.parametrize(
    ("statuses", "exit_status"),
    [
        ([], 0),
        (["done", "skipped", "partial"], 0),
        (["done", "failed"], 1),
        (["done", "empty"], 1),
        (["skipped"], 0),
    ],
)
def test_exit_status(statuses: list[Any], exit_status: int) -> None:
    ledger = Ledger(None, settings={})
    for number, status in enumerate(statuses):
        ledger.add(item(str(number)), status)
    assert ledger.exit_status == exit_status


def test_summary_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path, settings={})
    assert ledger.summary() == "nothing done"
    for status in ("failed", "skipped", "done", "done", "skipped", "done"):
        ledger.add(item("x"), status)
    assert ledger.summary() == f"3 done, 2 skipped, 1 failed (listed in {path})"


def test_printing_only_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ledger = Ledger(None, settings={})
    ledger.add(item("x"), "done")
    ledger.finish()
    assert ledger.summary() == "1 done"
    assert list(tmp_path.iterdir()) == []


def test_problems_are_listed_with_reasons_failures_first(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", settings={})
    ledger.add(item("p"), "partial", warnings=["3 frames lost", "more"])
    ledger.add(item("good"), "done")
    ledger.add(item("e"), "empty", reason="no rows")
    ledger.add(item("f"), "failed", reason="videos/f.mp4: cannot be opened")
    assert ledger.problems() == [
        "empty: videos/e.mp4: no rows",
        "failed: videos/f.mp4: cannot be opened",
        "partial: videos/p.mp4: 3 frames lost; more",
    ]
    for number in range(30):
        ledger.add(item(str(number)), "failed", reason="bad")
    shown = ledger.problems(limit=20)
    assert len(shown) == 21
    assert shown[-1] == f"... and 13 more (all in {tmp_path / 'ledger.jsonl'})"


def test_unknown_status_is_refused() -> None:
    with pytest.raises(ValueError, match="status"):
        Ledger(None, settings={}).add(item("x"), "finished")  # type: ignore[arg-type]


def test_two_processes_append_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    code = (
        "import sys; from pathlib import Path; from store.ledger import Ledger; from utils.types import Item\n"
        "ledger = Ledger(sys.argv[1], settings={'long': 'x' * 9000})\n"
        "for number in range(150):\n"
        "    ledger.add(Item(Path('v'), f'{sys.argv[2]}{number}'), 'failed', reason=sys.argv[2] * (number * 100))\n"
    )
    commands = [[sys.executable, "-c", code, str(path), letter] for letter in "ab"]
    processes = [subprocess.Popen(command, cwd=ROOT) for command in commands]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    found = [json.loads(line) for line in path.read_text().splitlines() if line]
    for letter in "ab":
        mine = [entry["item"] for entry in found if entry["event"] == "item" and entry["item"].startswith(letter)]
        assert mine == [f"{letter}{number}" for number in range(150)]
    assert len({entry["run"] for entry in found}) == 2


def test_a_line_cut_short_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b'{"event": "it')
    Ledger(path, settings={}).add(item("x"), "done")
    first, *rest = path.read_text().splitlines()
    assert first == '{"event": "it'
    assert [json.loads(line)["event"] for line in rest] == ["run", "item"]


def test_short_write_and_folder_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(UserError, match=r"ledger\.jsonl.*in the way"):
        Ledger(tmp_path / "ledger.jsonl", settings={}).add(item("x"), "done")
    monkeypatch.setattr(os, "write", lambda *_: 1)
    with pytest.raises(UserError, match="disk is full"):
        Ledger(tmp_path / "other.jsonl", settings={}).add(item("x"), "done")


def test_file_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    name = os.fsdecode(b"caf\xe9")
    Ledger(path, settings={}).add(item(name), "done")
    assert lines(path)[1]["item"] == name
