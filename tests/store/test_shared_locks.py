"""A lock that all who say the same hold together."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from store.locks import Locks, holders_and_left

ROOT = Path(__file__).resolve().parents[2]


def test_the_same_text_shares_and_another_is_told_who_holds_it(tmp_path: Path) -> None:
    with Locks(tmp_path) as first, Locks(tmp_path) as second:
        assert first.share("folder", "settings") is None
        assert second.share("folder", "settings") is None
        third = Locks(tmp_path)
        me = f", process {os.getpid()}"
        holder, text = third.share("folder", "others") or ("", "")
        assert (holder.endswith(me), text) == (True, "settings")
        assert third.share("another folder", "others") is None
        assert [held.endswith(me) for held in holders_and_left(tmp_path)[0]] == [True, True]
        with third:
            pass
    assert list(tmp_path.iterdir()) == []


def test_with_its_last_holder_it_is_free_for_others(tmp_path: Path) -> None:
    first = Locks(tmp_path)
    with first:
        first.share("folder", "settings")
    with Locks(tmp_path) as second:
        assert second.share("folder", "others") is None


def test_a_killed_holder_is_free_at_once(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from store.locks import Locks; import os; locks = Locks(Path({str(tmp_path)!r}))"
    run = [sys.executable, "-c", f"{code}; assert locks.share('folder', 'a') is None; os.kill(os.getpid(), 9)"]
    assert subprocess.run(run, cwd=ROOT).returncode == -9
    assert len(list((tmp_path / ".locks").iterdir())) == 1
    with Locks(tmp_path) as locks:
        assert locks.share("folder", "another, longer text") is None
    assert list(tmp_path.iterdir()) == []


def test_of_many_at_once_all_who_have_it_say_the_same(tmp_path: Path) -> None:
    """Forty come and go; whoever is let in finds nobody else who says otherwise."""
    inside: list[str] = []

    def visit(number: int) -> str:
        text = "ab"[number % 2]
        with Locks(tmp_path) as locks:
            if locks.share("folder", text) is not None:
                return "refused"
            inside.append(text)
            together = "mixed" if len(set(inside)) > 1 else "alone"
            inside.remove(text)
            return together

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(visit, range(120)))
    assert found <= {"alone", "refused"}
    assert "alone" in found
