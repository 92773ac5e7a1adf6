"""Random words on the command line: `python -m tests.fuzz.overrides --num 300 --seed 1`.

Whole runs of small jobs with one to three random values for random keys. Right are success, files that are listed as
failed, and one line that begins with `error: `; a traceback, Hydra's own words, a hang or silence is a "violation".
`--only 17 23` runs these cases again and prints all that it says.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.jobs import OUT, make_jobs, prepare_convert
from tests.fuzz.media import show
from tests.fuzz.runs import run, warm_up
from utils.command_line import known_keys

# Not for random values: what leads to the network or to hours, and groups whose other options need data.
_LEFT_ALONE = frozenset(
    {"download_root", "offline", "feature_type", "pretrained", "compile", "max_steps", "epochs", "evaluators", "data"}
    | {"experiment", "caption_data", "caption_experiment", "vision", "text", "captioner", "workers", "accumulation"}
)
_EVIL = "{_target_: os.mkdir, path: evil}"
_VALUES = (
    *(
        "null",
        "true",
        "no",
        "-1",
        "0",
        "1",
        "2",
        "3.5",
        "1e6",
        "1e400",
        "nan",
        "inf",
        "-inf",
        str(10**30),
        "1/0",
        "2/3",
    ),
    *("", "''", " ", "x", "a=b", "a,b", "[a, b]", "[]", "[[1]]", "{a: 1}", "{}", "[1, null]", "${x}", "${oc.env:HOME}"),
    *(
        "???",
        "é\udce4",
        "x" * 5000,
        "a\nb",
        "../up",
        "/proc/nowhere",
        "/dev/null",
        "nowhere.mp4",
        "print",
        "save_numpy",
    ),
    *(_EVIL, f"[{_EVIL}]", f"[a, {{b: {_EVIL}}}]", "a ${b} c", "${x}.jpg", "\\${x}"),
    *("'", '"', "[", "}", "\\", "%s", "*.jpg", "file:///etc/passwd", "http://0.0.0.0/x.mp4", "_target_", "-", "--"),
)
_KEY_WOUNDS = ("{}.x", "+{}", "~{}", "++{}", "{}@x", "{}x", "--{}", "/{}", "{}.0")


class Cases:
    def __init__(self, home: Path, seed: int, jobs_wanted: Sequence[str]) -> None:
        self._home, self._seed = home, seed
        jobs = make_jobs(home / "inputs", items=1)
        prepare_convert(jobs, home / "inputs")
        small = "model_name=tiny", "device=cpu", "offline=true"
        images = f"image_paths={home / 'inputs' / 'images'}"
        given = {
            "extract": ("--config-name", "extract", *small, images, "on_extraction=save_numpy", f"output_path={OUT}"),
            "convert": jobs["convert"].arguments,
            "train": jobs["train"].arguments,
            "caption_train": jobs["caption_train"].arguments,
            "search": ("--config-name", "search", *small, images, "query=a cat", "top=1", f"output_path={OUT}/x.png"),
            "plan": ("--config-name", "plan", *small, images, "probe_seconds=0"),
            "verify": ("--config-name", "verify", "input_path=."),
            "evaluate": ("--config-name", "evaluate", *small, "num_scenes=4", f"output_path={OUT}"),
            "caption": ("--config-name", "caption", *small[1:], images, "max_words=3", "beam_size=2"),
        }
        self._given = {job: words for job, words in given.items() if not jobs_wanted or job in jobs_wanted}
        self._keys = {job: sorted(known_keys(job)[0] - _LEFT_ALONE) for job in self._given}
        warm_up(list(self._given.values()), home / "warm")

    def arguments(self, number: int) -> tuple[str, list[str]]:
        """The job of case `number`, and the words that are added."""
        rng = random.Random(f"{self._seed}:{number}")
        job, words = rng.choice(list(self._given)), []
        for _ in range(rng.choice((1, 1, 2, 3))):
            key = rng.choice(self._keys[job])
            if rng.random() < 0.1:
                key = rng.choice(_KEY_WOUNDS).format(key)
            words.append(key if rng.random() < 0.03 else f"{key}={rng.choice(_VALUES)}")
        return job, words

    def outcome(self, number: int) -> tuple[str, str]:
        """In a word or a line, and all that the run said."""
        job, words = self.arguments(number)
        folder = self._home / f"case{number}"
        folder.mkdir()
        ended = run([*self._given[job], *words], folder, memory_bytes=6 << 30)
        called = (folder / "evil").exists()
        shutil.rmtree(folder)
        lines = [line for line in ended.output.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")]
        if called:
            return "violation: a value was called", ended.output
        if "Traceback" in ended.output:
            return f"violation: traceback: {lines[-1][:200]}", ended.output
        if "HYDRA_FULL_ERROR" in ended.output:
            own = [line for line in lines if not line.startswith(("Set the environment", "Error executing job"))]
            return f"violation: Hydra's own words: {' '.join(own[:2])[:200]}", ended.output
        if ended.status == -signal.SIGKILL:
            return "violation: no end within two minutes", ended.output
        if ended.status not in (0, 1) or len(errors) > 1 or (errors and ended.status == 0):
            return f"violation: exit {ended.status}, {errors[:2]}", ended.output
        if ended.status and not errors and "failed" not in ended.output:
            return f"violation: exit {ended.status} without a word: {lines[-1:]}", ended.output
        if ended.strays:
            return f"violation: {ended.strays} processes outlived it", ended.output
        return ("done" if ended.status == 0 else "refused" if errors else "listed as failed"), ended.output


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.overrides", description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="number of the first case: to go on with a series")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", default="", help="names, with commas; all if none are given")
    parser.add_argument("--only", type=int, nargs="+")
    given, started = parser.parse_args(words), time.monotonic()
    home, table, bad = Path(tempfile.mkdtemp()), defaultdict(Counter), []
    try:
        cases = Cases(home, given.seed, [job for job in given.jobs.split(",") if job])
        numbers = given.only or range(given.first, given.first + given.num)
        for number in numbers:
            (job, added), (outcome, said) = cases.arguments(number), cases.outcome(number)
            table[": ".join(outcome.split(": ")[:2])][job] += 1
            if outcome.startswith("violation"):
                bad.append(f"case {number} ({job} {' '.join(added)[:200]!r}): {outcome}")
            if given.only:
                print(added, said)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print("\n".join(bad[:200]))
    show(table)
    print(f"{len(numbers)} command lines, seed {given.seed}, {time.monotonic() - started:.0f} s")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
