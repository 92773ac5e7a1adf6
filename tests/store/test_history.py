"""What the ledger remembers of earlier runs: who is not to be tried again, and what `retry_failed=true` works on."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from store.history import History, look_back, read_history
from store.ledger import Ledger, Status
from utils.errors import UserError
from utils.types import Item

FOLDER = "clip/ViT-B_32"


@pytest.fixture
def item(tmp_path: Path) -> Item:
    path = tmp_path / "bad.mp4"
    path.write_bytes(b"video")
    return Item(path, "bad")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def run(path: Path, *entries: tuple[Item, Status], crashed: bool = False, folder: str = FOLDER) -> Ledger:
    """One more run, which ended so."""
    ledger = Ledger(path, settings={"video": {"folder": folder}})
    for item, status in entries:
        ledger.add(item, status, reason=f"{item.path}: the decoder crashed: signal 11", crashed=crashed)
    ledger.finish()
    return ledger


def history(path: Path, *, retry_failed: bool = False) -> History:
    return read_history(path, [FOLDER], retry_failed=retry_failed)


def test_only_crashes_are_marked_in_the_ledger_with_size_and_time(item: Item, path: Path) -> None:
    run(path, (item, "failed"))
    run(path, (item, "failed"), crashed=True)
    first, second = [line for line in map(json.loads, path.read_text().splitlines()) if line["event"] == "item"]
    assert first.keys() == second.keys() - {"crashed", "size_bytes", "mtime"}
    assert (second["crashed"], second["size_bytes"], second["mtime"]) == (True, 5, item.path.stat().st_mtime)


def test_a_crash_is_tried_again_only_when_asked_for_and_twice_at_most(item: Item, path: Path) -> None:
    for _ in range(2):
        run(path, (item, "failed"), crashed=True)
        crash = f"{item.path}: the decoder crashed: signal 11"
        assert history(path).refusal(item) == f"{crash}; not tried again: retry_failed=true does"
        assert history(path, retry_failed=True).refusal(item) == ""
    run(path, (item, "failed"), crashed=True)
    given_up = f"{crash}; 3 times by now: not tried again until the file is replaced"
    assert history(path).refusal(item) == history(path, retry_failed=True).refusal(item) == given_up


def test_what_was_left_out_is_no_other_crash(item: Item, path: Path) -> None:
    run(path, (item, "failed"), crashed=True)
    for _ in range(5):
        run(path, (item, "failed"))
    assert history(path, retry_failed=True).refusal(item) == ""
    assert history(path).refusal(item)


@pytest.mark.parametrize("status", ["done", "skipped", "partial"])
def test_what_is_done_is_forgiven(item: Item, path: Path, status: Status) -> None:
    for _ in range(3):
        run(path, (item, "failed"), crashed=True)
    run(path, (item, status))
    assert history(path).refusal(item) == ""
    assert history(path, retry_failed=True).still_missing({"video": [item]}) == {"video": []}


def test_another_file_of_the_same_name_begins_anew(item: Item, path: Path) -> None:
    for _ in range(3):
        run(path, (item, "failed"), crashed=True)
    item.path.write_bytes(b"another video")
    assert history(path).refusal(item) == ""
    run(path, (item, "failed"), crashed=True)
    assert history(path).refusal(item).endswith("retry_failed=true does")
    os.utime(item.path, (0, 0))
    assert history(path).refusal(item) == ""
    item.path.unlink()
    assert history(path).refusal(item) == ""


def test_retry_works_on_what_is_missing(tmp_path: Path, path: Path) -> None:
    def named(name: str) -> Item:
        return Item(tmp_path / f"{name}.mp4", name)

    failed, empty, elsewhere = (named(status) for status in ("failed", "empty", "elsewhere"))
    run(path, (failed, "failed"), (empty, "empty"), (elsewhere, "elsewhere"), (named("p"), "partial"))
    run(path, (named("mended"), "failed"), (named("good"), "done"), (named("broke"), "done"))
    run(path, (named("mended"), "done"), (named("broke"), "failed"))
    run(path, (named("other"), "failed"), (failed, "done"), folder="clip/RN50")
    given = {"video": [*map(named, ("good", "p", "broke", "failed", "mended", "new", "other"))], "image": [empty]}
    missing = history(path, retry_failed=True).still_missing(given)
    assert missing == {"video": [named("broke"), failed], "image": [empty]}


def test_paths_from_here_and_from_the_root_are_the_same(
    item: Item, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(item.path.parent)
    run(path, (Item(Path("bad.mp4"), "bad"), "failed"), crashed=True)
    assert history(path).refusal(item)
    assert history(path, retry_failed=True).still_missing({"video": [item]}) == {"video": [item]}


@pytest.mark.parametrize(
    "line",
    [
        *('{"event": "item", "run', "[1, 2]", "null", '"item"', "", "\0\0\0", "\xff", "[" * 100_000),
        *('{"event": "item"}', '{"event": "run", "settings": 3}', '{"event": "item", "run": "x", "path": 7}'),
    ],
)
def test_damaged_lines_are_passed_over(item: Item, path: Path, line: str) -> None:
    run(path, (item, "failed"), crashed=True)
    with path.open("a", encoding="latin-1") as file:
        file.write(line + "\n")
    run(path, (Item(Path("b"), "b"), "failed"))
    assert history(path, retry_failed=True).missing == {(str(item.path), "bad"), (os.path.abspath("b"), "b")}
    assert history(path).refusal(item)


def test_what_convert_says_is_about_something_else(item: Item, path: Path) -> None:
    run(path, (item, "failed"), crashed=True)
    of_convert = Ledger(path, settings={"converted": "output"})
    of_convert.add(item, "done")
    of_convert.add(Item(Path("x_meta.json"), "x"), "failed")
    assert history(path).refusal(item)
    assert len(history(path, retry_failed=True).missing) == 1


def test_nothing_to_go_by(tmp_path: Path) -> None:
    assert look_back(tmp_path / "absent.jsonl", [FOLDER], retry_failed=True).missing == frozenset()
    assert look_back(None, [FOLDER], retry_failed=False) == History()
    with pytest.raises(UserError, match="retry_failed=true goes by the account beside saved results"):
        look_back(None, [FOLDER], retry_failed=True)
    (tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(UserError, match=r"ledger\.jsonl: a file or folder of the same name is in the way"):
        look_back(tmp_path / "ledger.jsonl", [FOLDER], retry_failed=False)
    given: Any = "yes"
    with pytest.raises(UserError, match="retry_failed=yes: expected true or false"):
        look_back(None, [FOLDER], retry_failed=given)


def test_what_crashes_in_another_process_meanwhile_is_not_tried_here(item: Item, path: Path) -> None:
    run(path, (Item(item.path.with_name("x"), "x"), "done"))
    here, retrying = history(path), history(path, retry_failed=True)
    assert here.refusal(item) == retrying.refusal(item) == ""
    run(path, (item, "failed"), crashed=True)
    assert here.refusal(item).endswith("not tried again: retry_failed=true does")
    assert retrying.refusal(item).endswith("not tried again: retry_failed=true does")
    with path.open("a") as file:
        file.write('{"event": "item", "run":')  # another process is at it
    assert here.refusal(item)
    assert history(path, retry_failed=True).refusal(item) == ""
