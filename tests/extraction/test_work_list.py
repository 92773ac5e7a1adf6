"""Who works on what: every item once, whatever other processes do."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from extraction import work_list
from extraction.work_list import WorkList
from store.history import Crashes, History
from store.ledger import Ledger
from utils.types import Item

ITEMS = [Item(Path(f"{name}.mp4"), name) for name in "abcd"]


@dataclass
class FakeStore:
    """`busy` names are held by another process for so many attempts; `before_claim` happens meanwhile."""

    saved: set[str] = field(default_factory=set)
    busy: dict[str, float] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    released: list[str] = field(default_factory=list)
    before_claim: Callable[[str], None] = lambda name: None

    def done(self, item: Item, folder: str, settings: dict[str, Any]) -> bool:
        return item.name in self.saved

    def claim(self, item: Item, folder: str) -> bool:
        self.before_claim(item.name)
        if self.busy.get(item.name, 0) > 0:
            self.busy[item.name] -= 1
            return False
        self.held.add(item.name)
        return True

    def release(self, item: Item, folder: str) -> None:
        self.held.discard(item.name)
        self.released.append(item.name)

    def holder(self, item: Item, folder: str) -> str:
        return "host1, process 7"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_list, "_POLL_SECONDS", 0.01)


def work(
    store: FakeStore,
    *,
    items: list[Item] = ITEMS,
    shows: bool = False,
    history: History | None = None,
    patience_seconds: float = 0.2,
) -> tuple[WorkList, Ledger]:
    ledger = Ledger(None, settings={})
    todo = WorkList(
        items,
        folder="clip/m",
        settings={},
        store=store,  # pyright: ignore
        shows=shows,
        ledger=ledger,
        history=history,
        patience_seconds=patience_seconds,
    )
    return todo, ledger


def rounds(todo: WorkList) -> list[list[str]]:
    """Each item is finished before the next round, as the pipeline does."""
    found = []
    for items in todo.rounds():
        found.append([])
        for item in items:
            found[-1].append(item.name)
        for name in found[-1]:
            todo.release(Item(Path(f"{name}.mp4"), name))
    return found


def entries(ledger: Ledger) -> dict[str, tuple[str, str]]:
    return {entry.item: (entry.status, entry.reason) for entry in ledger.entries}


def test_what_is_saved_is_left_out() -> None:
    todo, ledger = work(FakeStore({"b"}))
    assert rounds(todo) == [["a", "c", "d"]]
    assert entries(ledger) == {"b": ("skipped", "done before, with these settings")}
    assert todo.num_left_out == 1


def test_printing_is_never_done_before() -> None:
    todo, _ = work(FakeStore(set("abcd")), shows=True)
    assert rounds(todo) == [list("abcd")]


def test_an_item_that_another_process_holds_is_done_as_soon_as_it_is_free() -> None:
    todo, ledger = work(FakeStore(busy={"a": 1, "c": 3}))
    assert rounds(todo) == [["b", "d"], ["a"], ["c"]]
    assert entries(ledger) == {}


def test_an_item_that_another_process_holds_is_left_out_as_soon_as_it_is_done() -> None:
    store = FakeStore(busy={"a": 3})
    store.before_claim = lambda name: store.saved.add("a") if store.busy["a"] == 1 else None
    todo, ledger = work(store)
    assert rounds(todo) == [["b", "c", "d"]]
    assert entries(ledger) == {"a": ("skipped", "done before, with these settings")}
    assert ledger.exit_status == 0


def test_an_item_that_never_comes_free_is_missing() -> None:
    todo, ledger = work(FakeStore(busy={"a": 1, "c": float("inf")}))
    assert rounds(todo) == [["b", "d"], ["a"]]
    status, reason = entries(ledger)["c"]
    assert (status, ledger.exit_status) == ("elsewhere", 1)
    assert reason.startswith("host1, process 7 has held it for 0 s without finishing anything")
    assert ledger.problems() == [f"elsewhere: c.mp4: {reason}"]


def test_patience_begins_anew_with_every_item_that_comes_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(work_list.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(work_list.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + 1))
    todo, ledger = work(FakeStore(busy={"a": 8, "b": 16, "c": 24, "d": 35}), patience_seconds=10)
    assert rounds(todo) == [[], ["a"], ["b"], ["c"]]
    assert entries(ledger)["d"][0] == "elsewhere"


def test_an_item_finished_between_look_and_claim_is_not_done_twice() -> None:
    store = FakeStore()
    store.before_claim = lambda name: store.saved.add("c") if name == "c" else None
    todo, ledger = work(store)
    assert rounds(todo) == [["a", "b", "d"]]
    assert entries(ledger) == {"c": ("skipped", "done by another process meanwhile")}
    assert store.held == set()


def test_claims_are_taken_one_by_one_and_given_back() -> None:
    store = FakeStore()
    todo, _ = work(store)
    items = next(iter(todo.rounds()))
    first = next(items)
    assert store.held == {"a"}
    todo.release(first)
    assert store.released == ["a"]


def test_what_killed_its_reader_is_left_out_and_still_missing(tmp_path: Path) -> None:
    path = tmp_path / "b.mp4"
    path.write_bytes(b"video")
    crashes = Crashes(1, f"{path}: the decoder crashed", 5, path.stat().st_mtime)
    history, items = History({str(path): crashes}), [ITEMS[0], Item(path, "b"), ITEMS[2]]
    todo, ledger = work(FakeStore(), items=items, history=history)
    assert rounds(todo) == [["a", "c"]]
    assert entries(ledger) == {"b": ("failed", f"{path}: the decoder crashed; not tried again: retry_failed=true does")}
    assert (ledger.exit_status, todo.num_left_out, ledger.entries[0].crashed) == (1, 1, False)
    todo, ledger = work(FakeStore({"b"}), items=items, history=history)
    assert rounds(todo) == [["a", "c"]]
    assert entries(ledger)["b"][0] == "skipped"
