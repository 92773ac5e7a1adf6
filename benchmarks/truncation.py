"""What is said of videos that are cut: each file to its first 1 to 9 tenths, read in several ways:

    PYTHONPATH=. python benchmarks/truncation.py [--films] VIDEO_OR_FOLDER...

`--films` adds those of the tests. Files that are not done as they are do not count. A loss is silent where a cut counts
as done though more than the last second is missing; the other losses among those done are the last column.
"""

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from media.container import open_stream
from media.sampling import AtFps, EveryFrame, Total
from tests.helpers.cut_films import BARELY_SECONDS, FILMS, cuts, outcome

SAMPLERS = [EveryFrame(), AtFps(Fraction(1)), AtFps(Fraction(1, 4)), Total(4)]


@dataclass
class Account:
    """Of the cuts of one container's files."""

    files: int = 0
    failed: int = 0
    partial: int = 0
    done: int = 0
    silent: int = 0
    most_lost_seconds: float = 0.0

    def add(self, path: Path, folder: Path) -> None:
        whole = outcome(path)
        if whole.status != "done":
            return
        self.files += 1
        for tenth, cut in cuts(path, folder):
            kept = outcome(cut, on_damage="keep")
            lost_seconds = whole.end_seconds - kept.end_seconds
            found = [kept, *(outcome(cut, sampler) for sampler in SAMPLERS)]
            for status in (each.status for each in found):
                setattr(self, status, getattr(self, status) + 1)
            if any(each.status == "done" for each in found):
                if lost_seconds > BARELY_SECONDS:
                    self.silent += sum(each.status == "done" for each in found)
                    print(f"silent: {path} {tenth}/10, {lost_seconds:.2f} s", flush=True)
                else:
                    self.most_lost_seconds = max(self.most_lost_seconds, lost_seconds)


def files_of(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", action="store_true")
    parser.add_argument("videos", nargs="*", type=Path)
    options = parser.parse_args()
    av.logging.set_level(None)
    accounts: dict[str, Account] = defaultdict(Account)
    with tempfile.TemporaryDirectory() as folder:
        written = [film.write(Path(folder) / name) for name, film in FILMS.items()] if options.films else []
        (cut := Path(folder) / "cut").mkdir()
        for path in [*written, *files_of(options.videos)]:
            try:
                container, _ = open_stream(path)
            except RuntimeError:
                continue
            with container:
                name = container.format.name.partition(",")[0]
            accounts[name].add(path, cut)
    print("| container | files | readings | failed | partial | done | silent | most lost among those done, s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, each in sorted(accounts.items()):
        cells = [name, each.files, each.failed + each.partial + each.done, each.failed, each.partial, each.done]
        print("|", " | ".join(map(str, [*cells, each.silent, f"{each.most_lost_seconds:.2f}"])), "|")


if __name__ == "__main__":
    main()
