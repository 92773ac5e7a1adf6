"""Claims: an item has one owner at a time, whoever is killed, wherever, and nothing is left over at the end."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from store import claims as claims_module
from store import owners as owners_module
from store.claims import Claim, Claims
from store.owners import Owners
from utils.errors import UserError

ROOT = Path(__file__).parents[2]
NAME = "clip/ViT-B_32/dog"


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    return Claims(tmp_path)


def taken(claims: Claims, name: str = NAME) -> Claim:
    claim = claims.take(name)
    assert claim is not None
    return claim


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / ".claims").iterdir())


def owner_file(claims: Claims) -> Path:
    return claims._home / f"{claims._owners.me.id}.owner"


def kill(claims: Claims) -> None:
    """As if its process had died: no heart, and its number is another process's by now."""
    claims._owners._left.set()
    me = replace(claims._owners.me, started="1")
    for path in claims._home.iterdir():
        if claims._owners.me.id in path.read_text():
            path.unlink()
            path.write_text(json.dumps(asdict(me)))


def elsewhere(monkeypatch: pytest.MonkeyPatch, folder: Path, machine: str = "far away", **arguments: float) -> Claims:
    """Claims of a process on another machine."""
    with monkeypatch.context() as patch:
        patch.setattr(owners_module, "machine", lambda: machine)
        return Claims(folder, **arguments)


def silent(claims: Claims, *, seconds: float) -> None:
    """As if its last sign of life were so long ago."""
    now = owner_file(claims).stat().st_mtime
    os.utime(owner_file(claims), (now - seconds, now - seconds))


def within(*, seconds: float, happens: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not happens() and time.monotonic() < end:
        time.sleep(0.005)
    return happens()


def child(folder: Path, code: str) -> subprocess.Popen[str]:
    """A process with `claims` on `folder`; it prints "ready" where the code says so."""
    start = "import os, sys, time; from pathlib import Path; from store.claims import Claims"
    lines = f"{start}\nclaims = Claims(Path(sys.argv[1]))\n{code}"
    return subprocess.Popen([sys.executable, "-c", lines, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


HOLD = f"assert claims.take({NAME!r}); print('ready', flush=True); time.sleep(100)"


def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_normal_run_leaves_no_trace(tmp_path: Path) -> None:
    with Claims(tmp_path / "output") as claims:
        assert not (tmp_path / "output").exists()  # nothing claimed, nothing written
        for number in range(3):
            claim = taken(claims, str(number))
            assert claim.is_mine()
            claim.release()
        taken(claims, "given up at the end")
    assert list((tmp_path / "output").iterdir()) == []


def test_a_run_that_claims_nothing_writes_nothing(tmp_path: Path) -> None:
    with Claims(tmp_path / "output") as claims:
        assert claims.holder(NAME) is None
    assert list(tmp_path.iterdir()) == []


def test_also_after_an_error(tmp_path: Path) -> None:
    def interrupted() -> None:
        with Claims(tmp_path) as claims:
            taken(claims)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_one_owner_at_a_time(tmp_path: Path, claims: Claims) -> None:
    with claims, Claims(tmp_path) as other:
        claim = taken(claims)
        assert claims.take(NAME) is None  # nor by this process again
        assert other.take(NAME) is None
        assert other.holder(NAME) == f"{claims._owners.me.host}, process {os.getpid()}"
        assert other.holder("another") is None
        taken(other, "another").release()
        claim.release()
        assert other.holder(NAME) is None
        assert not claim.is_mine()
        second = taken(other)
        claim.release()  # once more: not the other's
        assert second.is_mine()
        assert claims.take(NAME) is None


@pytest.mark.parametrize("lease", [0, -1, float("nan")])
def test_a_lease_has_a_length(tmp_path: Path, lease: float) -> None:
    with pytest.raises(UserError, match=r"lease_seconds=.*more than 0"):
        Claims(tmp_path, lease_seconds=lease)


def test_any_string_is_a_name(tmp_path: Path, claims: Claims) -> None:
    names = [
        "",
        ".",
        "..",
        "/",
        "a/../b",
        "x" * 5000,
        "ü\n\0\udcff",
        "a b",
        "a_b",
        "A",
        "a",
        "a.1.b",
        "名",
        "nul",
        "-rf",
    ]
    with claims:
        held = [taken(claims, name) for name in names]
        assert all(claim.is_mine() for claim in held)
        assert max(map(len, left(tmp_path))) < 143
    assert list(tmp_path.iterdir()) == []


def test_threads_take_each_item_once(tmp_path: Path) -> None:
    """Three owners, four threads each, everybody tries everything; an item taken is done, and looked at again."""
    done, work = set(), Counter()
    owners = [Claims(tmp_path) for _ in range(3)]

    def run(number: int) -> None:
        for name in map(str, range(200)):
            claim = owners[number % 3].take(name)
            if claim is None:
                continue
            if name not in done:
                assert claim.is_mine()
                work[name] += 1  # not atomic: two owners at once lose one, or count two
                done.add(name)
            claim.release()

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(run, range(12)))
    for each in owners:
        each.__exit__(None, None, None)
    assert work == dict.fromkeys(map(str, range(200)), 1)
    assert list(tmp_path.iterdir()) == []


def test_processes_take_each_item_once(tmp_path: Path) -> None:
    code = """
print('ready', flush=True)
while not Path(sys.argv[1], 'go').exists(): time.sleep(0.001)
with claims:
    for name in map(str, range(200)):
        claim = claims.take(name)
        if claim is None: continue
        if not Path(sys.argv[1], name).exists():
            assert claim.is_mine()
            with open(Path(sys.argv[1], 'log'), 'a') as log: log.write(name + '\\n')
            Path(sys.argv[1], name).touch()
        claim.release()
"""
    processes = [child(tmp_path, code) for _ in range(4)]
    for process in processes:
        ready(process)
    (tmp_path / "go").touch()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert sorted((tmp_path / "log").read_text().split(), key=int) == list(map(str, range(200)))
    assert not (tmp_path / ".claims").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to tell zombies")
def test_a_killed_process_is_replaced_at_once(tmp_path: Path) -> None:
    process = child(tmp_path, HOLD)
    ready(process)
    with Claims(tmp_path, lease_seconds=1000) as claims:
        assert claims.take(NAME) is None
        assert claims.holder(NAME) == f"{claims._owners.me.host}, process {process.pid}"
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, but nobody has asked for its status: a zombie
        assert claims.holder(NAME) is None
        assert taken(claims).is_mine()
    end(process)
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_process_keeps_its_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claims: Claims) -> None:
    """On one machine no lease counts: the process can be seen."""
    taken(claims)
    claims._owners._left.set()
    silent(claims, seconds=10_000)
    with Claims(tmp_path) as other:
        assert other.take(NAME) is None


def test_the_number_of_a_dead_process_can_be_anothers(tmp_path: Path, claims: Claims) -> None:
    taken(claims)
    kill(claims)  # the process id exists: it is this test's
    with Claims(tmp_path) as other:
        assert other.holder(NAME) is None
        assert taken(other).is_mine()
    assert list(tmp_path.iterdir()) == []


def test_another_machine_waits_for_the_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far = elsewhere(monkeypatch, tmp_path)
    claim = taken(far)
    far._owners._left.set()
    with Claims(tmp_path, lease_seconds=1) as claims:  # the owner's lease counts, not the reader's
        for seconds in (0, 50):
            silent(far, seconds=seconds)
            assert claims.take(NAME) is None
        claims._owners._left.set()
        silent(claims, seconds=10_000)  # it looks at the clock now, not when its own heart beat last
        silent(far, seconds=61)
        assert claims.holder(NAME) is None
        mine = taken(claims)
        assert mine.is_mine()
        assert not claim.is_mine()  # it comes back, and is told before it saves
        claim.release()
        assert mine.is_mine()
        assert far.take(NAME) is None
    far.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("skew", [-86400, 86400])
def test_the_clock_of_the_disk_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew: int) -> None:
    far = elsewhere(monkeypatch, tmp_path)
    taken(far)
    clock, modified = time.time, owners_module._modified
    monkeypatch.setattr(time, "time", lambda: clock() + skew)  # this machine's clock is wrong
    monkeypatch.setattr(owners_module, "_modified", lambda path: modified(path) - skew / 2)  # the server's, too
    with Claims(tmp_path) as claims:
        assert claims.take(NAME) is None
        far._owners._left.set()
        silent(far, seconds=61)
        assert taken(claims).is_mine()


def test_the_heart_beats_also_after_somebody_took_its_file_away(tmp_path: Path) -> None:
    with Claims(tmp_path, lease_seconds=0.04) as claims:
        taken(claims)
        file = owner_file(claims)
        silent(claims, seconds=1000)
        old = file.stat().st_mtime
        assert within(seconds=30, happens=lambda: file.stat().st_mtime > old + 500)
        file.unlink()
        assert within(seconds=30, happens=file.exists)
    assert list(tmp_path.iterdir()) == []


def test_a_heart_that_cannot_beat_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    beats = threading.Semaphore(0)

    def fail(_: Owners) -> None:
        beats.release()
        raise OSError(28, "No space left on device")

    claims = Claims(tmp_path, lease_seconds=0.01)
    claim = taken(claims)
    monkeypatch.setattr(Owners, "renew", fail)
    for _ in range(4):
        beats.acquire()
    claims._owners.leave()
    assert caplog.text.count("disk is full") == 1
    assert claim.is_mine()  # nobody took it


def test_containers_with_one_host_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claims: Claims) -> None:
    """Same kernel, same host name, other process ids: this process's number says nothing."""
    far = elsewhere(monkeypatch, tmp_path, machine=owners_module.machine().replace("[", "[1"))
    taken(far)
    far._owners._left.set()
    owner_file(far).write_text(json.dumps(asdict(replace(far._owners.me, pid=2**22 - 1, started="1"))))
    with claims:
        assert claims.take(NAME) is None
        silent(far, seconds=61)
        taken(claims)


def test_one_of_many_takes_over(tmp_path: Path) -> None:
    for attempt in range(20):
        dead = Claims(tmp_path)
        taken(dead)
        kill(dead)
        barrier = threading.Barrier(6)
        owners = [Claims(tmp_path) for _ in range(6)]

        def run(claims: Claims, barrier: threading.Barrier = barrier) -> Claim | None:
            barrier.wait()
            return claims.take(NAME)

        with ThreadPoolExecutor(6) as pool:
            won = [claim for claim in pool.map(run, owners) if claim is not None]
        assert len(won) == 1, attempt
        assert won[0].is_mine()
        for claims in owners:
            claims.__exit__(None, None, None)
        assert list(tmp_path.iterdir()) == []


def test_a_chain_of_deaths(tmp_path: Path) -> None:
    for _ in range(4):
        claims = Claims(tmp_path)
        assert taken(claims).is_mine()
        kill(claims)
    with Claims(tmp_path) as last:
        assert taken(last).is_mine()
        assert sum("-" in name for name in left(tmp_path)) == 5
    assert list(tmp_path.iterdir()) == []


def test_who_saw_the_dead_owner_too_long_ago_ends_up_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claims: Claims
) -> None:
    """B takes over from A and is through with it while C still believes that A is the last."""
    dead, fast, newcomer = (Claims(tmp_path) for _ in range(3))
    taken(dead)
    kill(dead)
    sign, first = claims._owners.sign, []

    def late(path: Path) -> bool:
        taken(fast).release()
        first.append(taken(newcomer))
        return sign(path)

    monkeypatch.setattr(claims._owners, "sign", late)
    assert claims.take(NAME) is None
    assert first[0].is_mine()
    assert len(left(tmp_path)) == 5  # four owners and the newcomer's claim
    first[0].release()
    for each in (claims, fast, newcomer, dead):
        each.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


def test_who_comes_in_the_middle_of_a_release_keeps_the_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claims: Claims
) -> None:
    dead, newcomer, unlink = Claims(tmp_path), Claims(tmp_path), Path.unlink
    taken(dead)
    kill(dead)
    claim, got = taken(claims), []

    def interrupted(path: Path, **arguments: bool) -> None:
        unlink(path, **arguments)
        if not got:
            got.append(None)
            got[0] = newcomer.take(NAME)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", interrupted)
        claim.release()
    assert got[0] is not None
    assert got[0].is_mine()
    for each in (claims, newcomer):
        each.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


def test_success_that_is_answered_with_exists_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claims: Claims
) -> None:
    sign = claims._owners.sign
    monkeypatch.setattr(claims._owners, "sign", lambda path: not sign(path))
    with claims:
        assert taken(claims).is_mine()


class Killed(BaseException):
    pass


def steps(monkeypatch: pytest.MonkeyPatch, alive: int) -> None:
    """From the call number `alive` on, every call that changes the disk raises."""
    done = 0

    def limited(call: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **more: object) -> object:
            nonlocal done
            done += 1
            if done > alive:
                raise Killed
            return call(*arguments, **more)

        return step

    for owner, name in [(os, "link"), (Path, "unlink"), (Path, "rmdir"), (Path, "mkdir"), (Path, "open")]:
        monkeypatch.setattr(owner, name, limited(getattr(owner, name)))


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("alive", range(40))
def test_killed_between_any_two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive: int, links: bool) -> None:
    """The item can be taken afterwards, by one, and nothing of the dead is left."""
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    first = Claims(tmp_path)
    taken(first)
    kill(first)
    victim = Claims(tmp_path)
    with monkeypatch.context() as patch:
        steps(patch, alive)
        try:
            with victim:
                claim = victim.take(NAME)
                if claim is not None:
                    claim.release()
                taken(victim, "another")
        except (Killed, AssertionError):
            pass
    if (tmp_path / ".claims").is_dir():
        kill(victim)
        for path in (tmp_path / ".claims").iterdir():
            if not path.read_bytes():  # created, but killed before a word was written: the lease decides
                os.utime(path, (1, 1))
    with Claims(tmp_path) as last, Claims(tmp_path) as other:
        for name in (NAME, "another"):
            assert taken(last, name).is_mine()
            assert other.take(name) is None
    assert list(tmp_path.iterdir()) == []


def no_links(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")  # what exFAT answers


def test_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", no_links)
    test_threads_take_each_item_once(tmp_path)
    test_one_of_many_takes_over(tmp_path)


def test_a_claim_without_content_has_the_time_of_a_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claims: Claims
) -> None:
    with claims:
        taken(claims, "another")
        empty = claims._home / claims_module._file_name(NAME)
        empty.touch()
        assert claims.take(NAME) is None
        assert claims.holder(NAME) == "a process that cannot be identified"
        os.utime(empty, (1, 1))
        assert taken(claims).is_mine()
    assert list(tmp_path.iterdir()) == []


def test_what_the_killed_left_is_taken_away_even_if_nothing_was_to_do(tmp_path: Path) -> None:
    process = child(tmp_path, HOLD)
    ready(process)
    end(process)
    assert len(left(tmp_path)) == 2
    with Claims(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_living_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far, near, dead = elsewhere(monkeypatch, tmp_path), Claims(tmp_path), Claims(tmp_path)
    taken(dead, "of the dead")
    taken(dead, "taken over")
    kill(dead)
    held = [taken(far, "far"), taken(near, "near"), taken(near, "taken over")]
    with Claims(tmp_path) as claims:
        taken(claims)
    assert all(claim.is_mine() for claim in held)
    assert len(left(tmp_path)) == 2 + 4  # two owners; a chain of two and two of one
    for each in (far, near):
        each.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_disappears_while_another_enters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of the others takes the empty folder away between making it and using it."""
    mkdir, times = Path.mkdir, []

    def made_and_gone(path: Path, *arguments: object, **more: object) -> None:
        mkdir(path, *arguments, **more)  # type: ignore[arg-type]
        times.append(1)
        if len(times) < 3:
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", made_and_gone)
    with Claims(tmp_path) as claims:
        taken(claims)
    assert list(tmp_path.iterdir()) == []


def test_somebody_deletes_the_folder(tmp_path: Path, claims: Claims) -> None:
    with claims:
        claim = taken(claims)
        shutil.rmtree(tmp_path / ".claims")
        assert not claim.is_mine()  # anybody may have taken it since
        assert taken(claims, "another").is_mine()
        claim.release()
        assert taken(claims).is_mine()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with Claims(tmp_path) as claims, pytest.raises(UserError, match="not allowed to write"):
            claims.take(NAME)
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize(("number", "message"), [(28, "is full"), (30, "not allowed to write"), (5, "check the disk")])
def test_failures_of_the_disk_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with Claims(tmp_path) as claims:
        taken(claims, "another")
        with monkeypatch.context() as patch:
            patch.setattr(os, "link", fail)
            patch.setattr(Owners, "_write_new", fail)
            with pytest.raises(UserError, match=message) as caught:
                claims.take(NAME)
        assert ".claims" in str(caught.value)
        assert taken(claims).is_mine()


def test_a_disk_that_fills_up_leaves_no_half_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    class Full(io.BytesIO):
        def write(self, *_: object) -> int:
            raise OSError(28, "No space left on device")

    def full(path: Path, mode: str) -> Full:
        opened(path, mode).close()
        return Full()

    with Claims(tmp_path) as claims:
        taken(claims, "another")
        before = left(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(os, "link", no_links)
            patch.setattr(Path, "open", full)
            with pytest.raises(OSError, match="No space"):
                claims._owners.sign(claims._home / "new")
        assert left(tmp_path) == before


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / ".claims").write_text("")
    with Claims(tmp_path) as claims, pytest.raises(UserError, match="in the way"):
        claims.take(NAME)


def test_what_cannot_be_cleaned_up_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch, Claims(tmp_path) as claims:
        taken(claims)
        patch.setattr(Path, "unlink", fail)
        claims.__exit__(None, None, None)
        assert "could not be cleaned up" in caplog.text
        patch.undo()
    assert list(tmp_path.iterdir()) == []


def test_another_users_process_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claims: Claims) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    taken(claims)
    monkeypatch.setattr(os, "kill", fail)
    with Claims(tmp_path) as other:
        assert other.take(NAME) is None
        kill(claims)  # its number is in use, by a later process
        assert taken(other).is_mine()


def test_own_name_with_spaces_and_brackets_in_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "7 (a) b (c)) Z 1" + " 0" * 17 + " 4711 0\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: line)
    assert owners_module._start_and_state(7) == ("4711", "Z")
