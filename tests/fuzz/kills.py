"""Runs of `main.py` that are killed, at random moments or at every file operation in turn, or whose files fail.

`python -m tests.fuzz.kills random --num 200 --seed 1`: SIGKILL at random moments, up to three in a row on one folder.
`python -m tests.fuzz.kills every`: SIGKILL at the first file operation of each small job, the second, the third ...
`python -m tests.fuzz.kills faults`: an OSError (disk full, damaged, not allowed, too many files) at each instead.

Then the same command once more, undisturbed: exit status 0, and all that is there equal to what an undisturbed run
leaves (`tests.fuzz.jobs.results` says what that means), nothing missing, no temporary file, no lock, no process.
A run with a fault has to end with exit status 1 in one line and without a traceback, or with 0 and all results.
`--jobs images,train` picks, `--stride 5 --first 2` takes every fifth operation from the second on.
"""

import argparse
import errno
import itertools
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.jobs import OUT, Job, differences, left_behind, make_jobs, prepare_convert, results
from tests.fuzz.runs import Ended, Fault, run, warm_up

LISTED = "(listed in "  # end of the account of a run: single items failed
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EMFILE)
LEAST_STARTUP_SHARE = 0.2  # of random kills: before anything is written


@dataclass(frozen=True)
class Undisturbed:
    """What a job leaves behind, and how long it takes; nothing is written before `first_seconds`."""

    found: dict[str, str]
    seconds: float
    first_seconds: float
    operations: int


@dataclass
class Tally:
    """Counts of one job, and what went wrong in words."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def wrong(self, kind: str, words: str) -> None:
        self.counts[kind] += 1
        self.problems.append(words)


class Harness:
    """Undisturbed runs first, then disturbed ones, each series in a folder of its own below `home`."""

    def __init__(self, home: Path, names: Sequence[str], *, items: int) -> None:
        self._home, self._numbers = home, itertools.count()
        self._jobs = make_jobs(home / "inputs", items=items)
        self.names = [name for name in self._jobs if not names or name in names]
        if "convert" in self.names:
            prepare_convert(self._jobs, home / "inputs")
        warm_up([self._jobs[name].arguments for name in self.names], home / "warm")
        self._known = {name: self._undisturbed(self._jobs[name]) for name in self.names}
        self._seconds = {name: known.seconds for name, known in self._known.items()}  # the fewest: machines have moods
        self.tallies: defaultdict[str, Tally] = defaultdict(Tally)

    def folder(self) -> Path:
        folder = self._home / f"run{next(self._numbers)}"
        folder.mkdir()
        return folder

    def _undisturbed(self, job: Job) -> Undisturbed:
        """Twice: what already differs between two of them says nothing about kills."""
        folder, again, began = self.folder(), self.folder(), time.time()
        ended = run(job.arguments, folder, fault=Fault(sys.maxsize))
        second = run(job.arguments, again)
        if ended.status or second.status:
            raise RuntimeError(f"{job.name}: {ended.output}{second.output}")
        found = results(folder / OUT)
        if problems := differences(found, results(again / OUT)) + left_behind(found):
            print(f"{job.name}: not even undisturbed: {problems}")
        first = min(path.stat().st_mtime for path in folder.rglob("*")) - began
        shutil.rmtree(again)
        shutil.rmtree(folder)
        return Undisturbed(found, second.seconds, min(first, second.seconds), ended.operations)

    def kill_at_random(self, name: str, rng: random.Random, most: int) -> int:
        """One folder: up to three kills, then the final run; the number of kills that hit."""
        job, known, folder, hits, moments = self._jobs[name], self._known[name], self.folder(), 0, []
        for _ in range(min(most, rng.randint(1, 3))):
            first = 0 if rng.random() < LEAST_STARTUP_SHARE else known.first_seconds
            first, last = min(first, self._seconds[name] / 2), self._seconds[name]
            moments.append(round(rng.uniform(first, last), 3))
            ended = run(job.arguments, folder, kill_after=moments[-1])
            if not ended.killed and len(moments) == 1:
                self._seconds[name] = min(last, ended.seconds)
            hits += ended.killed
            self._count_killed(name, ended)
        self._finish(name, folder, f"killed after {moments} s")
        return hits

    def kill_at(self, name: str, at: int) -> bool:
        """False where the run ends before its operation number `at`."""
        folder = self.folder()
        ended = run(self._jobs[name].arguments, folder, fault=Fault(at))
        if ended.killed:
            self._count_killed(name, ended)
            self._finish(name, folder, f"killed at operation {at}")
        return ended.killed

    def fail_at(self, name: str, at: int, code: int) -> None:
        job, folder, words = self._jobs[name], self.folder(), f"{errno.errorcode[code]} at operation {at}"
        ended = run(job.arguments, folder, fault=Fault(at, code))
        tally = self.tallies[name]
        tally.counts["faults"] += 1
        last = ended.output.strip().splitlines()[-1:] or [""]
        if "Traceback" in ended.output or "HYDRA" in ended.output:
            said = [line for line in ended.output.splitlines() if "rror" in line and "HYDRA" not in line]
            tally.wrong("tracebacks", f"{name}: {words}: {said[-1:]}")
        elif ended.status == 1 and not (last[0].startswith("error: ") or LISTED in last[0]):
            tally.wrong("wrong exits", f"{name}: {words}: exit 1 without a line of its own: {last[0]}")
        elif ended.status not in (0, 1):
            tally.wrong("wrong exits", f"{name}: {words}: exit {ended.status}: {last[0]}")
        elif ended.status == 0 and (lost := self._lost(name, results(folder / OUT))):
            tally.wrong("wrong exits", f"{name}: {words}: exit 0, but {lost[:3]}")
        tally.counts["exit 0, nothing lost" if ended.status == 0 else "exit 1"] += 1
        self._finish(name, folder, words)

    def _lost(self, name: str, found: dict[str, str]) -> list[str]:
        """A lock or temporary file whose removal failed costs nothing, if only the next run takes it away."""
        kept = [f"left behind: {each}" for each in left_behind(found)]
        return [each for each in differences(self._known[name].found, found) if each not in kept]

    def _count_killed(self, name: str, ended: Ended) -> None:
        tally = self.tallies[name]
        tally.counts["kills" if ended.killed else "ended before"] += 1
        if ended.strays:
            tally.wrong("stray processes", f"{name}: {ended.strays} processes outlived the kill")
        if not ended.killed and ended.status:
            tally.wrong("wrong exits", f"{name}: exit {ended.status}: {ended.output[-500:]}")

    def _finish(self, name: str, folder: Path, words: str) -> None:
        """The same command undisturbed, and what is there then."""
        ended, tally = run(self._jobs[name].arguments, folder), self.tallies[name]
        tally.counts["final runs"] += 1
        if ended.status or ended.strays or "Traceback" in ended.output:
            tally.wrong("wrong exits", f"{name}: {words}: then exit {ended.status}: {ended.output[-800:]}")
        known, found = self._known[name].found, results(folder / OUT)
        kept = [each for each in left_behind(found) if each not in known]
        problems = [each for each in differences(known, found) if each.removeprefix("left behind: ") not in kept]
        if kept:
            tally.wrong("left-overs", f"{name}: {words}: {kept[:3]} of {len(kept)}")
        if problems:
            tally.wrong("not equal", f"{name}: {words}: {problems[:4]} of {len(problems)}")
        if not kept and not problems and not ended.status:
            tally.counts["equal"] += 1
        shutil.rmtree(folder)
        for each in self._home.glob(f"{folder.name}.*"):
            each.unlink()

    def operations(self, name: str) -> int:
        return self._known[name].operations


def at_random(harness: Harness, num: int, seed: int) -> None:
    """`num` kills that hit, spread over the jobs; `seed` decides the moments, as far as clocks repeat themselves."""
    for number, name in enumerate(harness.names):
        left = num // len(harness.names) + (number < num % len(harness.names))
        rng = random.Random(f"{seed}:{name}")
        while left > 0:
            left -= harness.kill_at_random(name, rng, left)


def in_turn(harness: Harness, name: str, how: str, given: argparse.Namespace) -> None:
    """One kill or fault for each file operation of a job."""
    for number, at in enumerate(range(given.first, harness.operations(name) + 1, given.stride)):
        if how == "faults":
            harness.fail_at(name, at, ERRORS[(number + given.seed) % len(ERRORS)])
        elif not harness.kill_at(name, at):
            break


def show(tallies: dict[str, Tally]) -> None:
    kinds = list(dict.fromkeys(kind for tally in tallies.values() for kind in tally.counts))
    bad = ["not equal", "left-overs", "stray processes", "wrong exits", "tracebacks"]
    kinds = [kind for kind in kinds if kind not in bad] + bad
    print(f"| job | {' | '.join(kinds)} |\n| --- |{' --- |' * len(kinds)}")
    total = Counter[str]()
    for name, tally in tallies.items():
        total += tally.counts
        print(f"| {name} | {' | '.join(str(tally.counts[kind]) for kind in kinds)} |")
    print(f"| all | {' | '.join(str(total[kind]) for kind in kinds)} |")


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.kills", description=__doc__.splitlines()[0])
    parser.add_argument("how", choices=["random", "every", "faults"], nargs="+")
    parser.add_argument("--num", type=int, default=200, help="random: kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", default="", help="names, with commas; all if none are given")
    parser.add_argument("--items", type=int, default=2, help="videos of a job; it has four times as many images")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--stride", type=int, default=1)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    given, started = arguments(words), time.monotonic()
    home = Path(tempfile.mkdtemp())  # no TemporaryDirectory: at the end of each forked run it would be removed
    try:
        names = [name for name in given.jobs.split(",") if name]
        harness = Harness(home, names, items=given.items)
        print(f"prepared in {time.monotonic() - started:.0f} s", file=sys.stderr)
        for how in given.how:
            if how == "random":
                at_random(harness, given.num, given.seed)
            else:
                for name in harness.names:
                    in_turn(harness, name, how, given)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    problems = [line for tally in harness.tallies.values() for line in tally.problems]
    print("\n".join(problems[:100]))
    show(harness.tallies)
    print(f"seed {given.seed}, {time.monotonic() - started:.0f} s")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
