"""Several processes on one output folder: `PYTHONPATH=. python benchmarks/processes.py [--rounds 20]`.

306 items, with a stand-in for reading and model. In every round processes are killed with `kill -9` while they hold
items (and started anew), others are paused and woken. Then every item must be there and right, and written once, and
every process that lives must end with 0. In the last rounds one is paused and not woken before the others have given it
up: they must end with 1 and name what is missing; woken, it completes that.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.helpers.shared_folder import entries, holders, images_in, missing, start, written_twice

NUM_ITEMS = 306
COLUMNS = ("kill -9", "pauses", "missing", "written twice", "wrong exits", "left-over locks")


def disturbed(images: Path, out: Path, processes: int) -> Counter[str]:
    steps = ["kill -9"] * random.randint(2, 8) + ["pauses"] * random.randint(2, 8)
    random.shuffle(steps)
    counts: Counter[str] = Counter()
    workers: dict[int, Any] = {worker.pid: worker for worker in start(processes, images, out, 120.0)}
    asleep: dict[int, float] = {}
    while (steps or asleep) and any(worker.is_alive() for worker in workers.values()):
        time.sleep(random.uniform(0.0, 0.15))
        for pid in [pid for pid, until in asleep.items() if until < time.monotonic()]:
            os.kill(pid, signal.SIGCONT)
            del asleep[pid]
        at_work = [pid for pid in holders(out) if pid in workers and workers[pid].is_alive() and pid not in asleep]
        if not at_work or not steps:
            continue
        pid = random.choice(at_work)
        counts[step := steps.pop()] += 1
        if step == "pauses":
            os.kill(pid, signal.SIGSTOP)
            asleep[pid] = time.monotonic() + random.uniform(0.2, 4)
        else:
            os.kill(pid, signal.SIGKILL)
            workers.pop(pid).join()
            workers |= {worker.pid: worker for worker in start(1, images, out, 120.0)}
    for worker in workers.values():
        worker.join()
    return counts + Counter({"wrong exits": sum(worker.exitcode != 0 for worker in workers.values())})


def never_woken(images: Path, out: Path, processes: int) -> Counter[str]:
    """One is paused until the others have ended; woken, it finishes what it holds."""
    workers = start(processes, images, out, 2.0)
    while not (held := holders(out)):
        time.sleep(0.01)
    os.kill(held[0], signal.SIGSTOP)
    others, paused = [w for w in workers if w.pid != held[0]], next(w for w in workers if w.pid == held[0])
    for worker in others:
        worker.join()
    lost = {image.stem for image in images.iterdir() if not (out / f"clip/slow/{image.stem}_meta.json").exists()}
    wrong = sum(worker.exitcode != 1 for worker in others) + (not lost or set(entries(out, "elsewhere")) != lost)
    os.kill(held[0], signal.SIGCONT)
    paused.join()
    return Counter({"pauses": 1, "wrong exits": wrong + (paused.exitcode != 0)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    print(f"{NUM_ITEMS} items, {options.processes} processes\n\n|  | rounds | s/round | {' | '.join(COLUMNS)} |")
    print(f"|{' --- |' * (len(COLUMNS) + 3)}", flush=True)
    bad = 0
    cases = (("killed, paused and woken", disturbed, options.rounds), ("one paused too long", never_woken, 5))
    for name, case, rounds in cases:
        totals, started = Counter(), time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            images = images_in(Path(scratch, "images"), NUM_ITEMS)
            for number in range(rounds):
                out = Path(scratch, f"out{number}")
                totals += case(images, out, options.processes)
                totals["missing"] += missing(out, NUM_ITEMS)
                totals["written twice"] += written_twice(out)
                totals["left-over locks"] += len(list(out.glob(".locks/*")))
        seconds = (time.monotonic() - started) / rounds
        print(f"| {name} | {rounds} | {seconds:.1f} | {' | '.join(str(totals[key]) for key in COLUMNS)} |", flush=True)
        bad += sum(totals[key] for key in COLUMNS[2:])
    sys.exit("something is missing, twice, or was not told" if bad else 0)


if __name__ == "__main__":
    main()
