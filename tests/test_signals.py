"""Signals: the first ends a run in order, the second at once, children leave them to their parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.helpers.shared_data import ROOT

START = """
import hashlib, os, signal, sys, threading, time
from pathlib import Path
from utils import signals
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
signals.listen()
def ready(): print("ready", flush=True)
"""
TOLD = """
try:
    with signals.stoppable():
        {body}
except KeyboardInterrupt as stop:
    {told}
    print(f"told {{stop}}", flush=True)
    sys.exit(signals.exit_status(stop))
"""


def ended(
    code: str, send: Sequence[int] = (), *, gap_seconds: float = 0.0, before: Sequence[str] = ()
) -> tuple[int, str, str]:
    """Status and both outputs of a process that gets these signals once it is ready."""
    command = [*before, sys.executable, "-c", START + code]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **streams) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number in send:
            process.send_signal(number)
            time.sleep(gap_seconds)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert "Traceback" not in err
    return process.returncode, out, err


def stops(body: str, told: str = "pass") -> str:
    return TOLD.format(body=body, told=told)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_ends_in_order(number: signal.Signals) -> None:
    assert ended(stops("ready(); time.sleep(60)"), [number]) == (128 + number, f"told {number.name}\n", "")


def test_where_there_is_nothing_to_tell_the_process_just_ends() -> None:
    status, out, err = ended("ready(); time.sleep(60)", [signal.SIGTERM])
    assert (status, out, err) == (143, "", "\nstopped before the work began\n")


def test_the_same_signal_twice_in_an_instant_is_one() -> None:
    """`timeout` sends it to the process, and then to its group."""
    code = stops("ready(); time.sleep(60)", "time.sleep(0.5)")
    assert ended(code, [signal.SIGTERM, signal.SIGTERM])[:2] == (143, "told SIGTERM\n")


COMPUTES = "threading.Timer(0.3, ready).start(); hashlib.pbkdf2_hmac('sha1', b'', b'', 10**9)"


@pytest.mark.parametrize("work", ["ready(); time.sleep(60)", COMPUTES], ids=["waits", "computes"])
def test_the_second_ends_at_once_and_takes_its_files_along(work: str, tmp_path: Path) -> None:
    """Also where Python itself does not come to answer the first."""
    path = tmp_path / ".locks" / "held"
    path.parent.mkdir()
    path.touch()
    code = f"signals.fleeting.add({str(path)!r})" + stops(work, "time.sleep(60)")
    status, out, err = ended(code, [signal.SIGINT, signal.SIGTERM], gap_seconds=0.5)
    assert (status, out) == (143, "")
    assert err.endswith("\nended at once; what was finished is kept, the same command goes on from there\n")
    assert list(tmp_path.iterdir()) == []


def test_a_stop_that_takes_long_says_how_to_shorten_it() -> None:
    err = ended(stops("ready(); time.sleep(60)", "time.sleep(1.5)"), [signal.SIGTERM])[2]
    assert err == "\nstopping after what is at hand; once more ends it at once\n"


def test_what_belongs_together_is_not_torn_apart() -> None:
    body = """
        with signals.shielded():
            with signals.shielded():
                ready(); time.sleep(0.5)
            print("whole", flush=True)
        print("never")
"""
    assert ended(stops(body), [signal.SIGTERM])[:2] == (143, "whole\ntold SIGTERM\n")


def test_signals_that_are_noted_leave_the_end_to_the_block() -> None:
    code = """
with signals.stoppable(), signals.noted() as notes:
    ready()
    while not notes: time.sleep(0.01)
    print(list(notes), flush=True)
"""
    assert ended(code, [signal.SIGTERM]) == (0, "[15]\n", "")
    code = """
with signals.noted() as notes:
    try:
        with notes.raised(): ready(); time.sleep(60)
    except signals.Stopped as stop: print(list(notes), stop)
"""
    assert ended(code, [signal.SIGTERM]) == (0, "[15] SIGTERM\n", "")


def test_nohup_is_respected() -> None:
    code = stops("ready(); time.sleep(0.5); print('done')")
    assert ended(code, [signal.SIGHUP], before=["nohup"])[1] == "done\n"


def test_children_leave_ctrl_c_to_their_parent() -> None:
    """A terminal sends it to all of a group; a child must neither end nor be taken for a second Ctrl-C."""
    body = """
        child = os.fork()
        if not child:
            time.sleep(60)
        ready(); time.sleep(60)
"""
    told = """
    time.sleep(0.5)
    os.kill(child, signal.SIGINT); os.kill(child, signal.SIGHUP); time.sleep(0.2)
    print(os.waitpid(child, os.WNOHANG))
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"""
    assert ended(stops(body, told.strip()), [signal.SIGINT])[:2] == (130, "(0, 0)\n-15\ntold SIGINT\n")


def test_a_terminal_that_is_closed_does_not_keep_the_account_from_the_disk(tmp_path: Path) -> None:
    told = f"print('account', file=sys.stderr, flush=True); Path({str(tmp_path / 'told')!r}).touch()"
    ours, theirs = os.openpty()
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
    with subprocess.Popen(
        [sys.executable, "-c", START + stops("ready(); time.sleep(60)", told)], cwd=ROOT, **streams
    ) as process:
        os.close(theirs)
        said = b""
        while not said.endswith(b"\n"):  # it may come in pieces
            said += os.read(ours, 100)
        assert said == b"ready\r\n"
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 129
    assert (tmp_path / "told").exists()
