"""Who works on what: every item once, whatever other processes do."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extraction.work_list import WorkList
from store.ledger import Ledger
from utils.types import Features, Handler, Item

ITEMS = [Item(Path(f"{name}.mp4"), name) for name in "abcd"]


@dataclass
class Saver:
    saved: set[str] = field(default_factory=set)
    saves: bool = True

    def done(self, item: Item, folder: str, settings: dict[str, Any]) -> bool:
        return item.name in self.saved

    def __call__(self, features: Features) -> None: ...


@dataclass
class FakeClaim:
    claims: "FakeClaims"
    name: str

    def is_mine(self) -> bool:
        return self.name not in self.claims.lost

    def release(self) -> None:
        self.claims.released.append(self.name)


@dataclass
class FakeClaims:
    """`busy` names are held by another process for so many attempts; `before_take` happens meanwhile."""

    busy: dict[str, int] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    released: list[str] = field(default_factory=list)
    before_take: Callable[[str], None] = lambda name: None

    def take(self, name: str) -> FakeClaim | None:
        self.before_take(name)
        if self.busy.get(name, 0) > 0:
            self.busy[name] -= 1
            return None
        return FakeClaim(self, name)

    def holder(self, name: str) -> str | None:
        return "host1, process 7"


def work(handlers: list[Handler], claims: FakeClaims | None) -> tuple[WorkList, Ledger]:
    ledger = Ledger(None, settings={})
    todo = WorkList(ITEMS, folder="clip/m", settings={}, handlers=handlers, claims=claims, ledger=ledger)  # pyright: ignore
    return todo, ledger


def entries(ledger: Ledger) -> dict[str, tuple[str, str]]:
    return {entry.item: (entry.status, entry.reason) for entry in ledger.entries}


def test_what_is_saved_is_left_out() -> None:
    todo, ledger = work([Saver({"b"})], FakeClaims())
    assert [item.name for item in todo] == ["a", "c", "d"]
    assert entries(ledger) == {"b": ("skipped", "done before, with these settings")}
    assert todo.num_left_out == 1


def test_what_only_one_of_two_handlers_has_saved_is_done_again() -> None:
    todo, _ = work([Saver(set("abcd")), Saver(set("abc"))], FakeClaims())
    assert [item.name for item in todo] == ["d"]


def test_printing_is_never_done_before() -> None:
    todo, _ = work([Saver(set("abcd")), Saver(saves=False)], FakeClaims())
    assert [item.name for item in todo] == list("abcd")
    todo, _ = work([Saver(set("abcd"), saves=False)], None)
    assert [item.name for item in todo] == list("abcd")


def test_an_item_that_another_process_holds_is_tried_again_at_the_end() -> None:
    todo, ledger = work([Saver()], FakeClaims(busy={"clip/m/a": 1, "clip/m/c": 2}))
    assert [item.name for item in todo] == ["b", "d", "a"]
    assert entries(ledger) == {"c": ("elsewhere", "host1, process 7 works on it")}
    assert ledger.exit_status == 0


def test_an_item_finished_between_look_and_claim_is_not_done_twice() -> None:
    saver = Saver()
    claims = FakeClaims(before_take=lambda name: saver.saved.add("c") if name.endswith("c") else None)
    todo, ledger = work([saver, Saver(saves=False)], claims)
    assert [item.name for item in todo] == ["a", "b", "d"]
    assert entries(ledger) == {"c": ("skipped", "done by another process meanwhile")}
    assert claims.released == ["clip/m/c"]


def test_claims_are_taken_one_by_one_and_given_back() -> None:
    taken: list[str] = []
    claims = FakeClaims(before_take=taken.append)
    todo, _ = work([Saver()], claims)
    items = iter(todo)
    first = next(items)
    assert taken == ["clip/m/a"]
    todo.release(first)
    todo.release(first)  # once only
    assert claims.released == ["clip/m/a"]


def test_a_claim_that_was_taken_over_is_noticed() -> None:
    claims = FakeClaims()
    todo, _ = work([Saver()], claims)
    first = next(iter(todo))
    assert todo.is_mine(first)
    claims.lost.add("clip/m/a")
    assert not todo.is_mine(first)
