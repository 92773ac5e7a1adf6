"""Damaged and evil checkpoints, lists and saved results: `python -m tests.fuzz.inputs --num 3000 --seed 1`.

Each is read by what `main.py` reads it with, in a process that may crash. Right are success and a UserError in one line
that names the file; anything else, a hang, or code that ran out of a pickle is a "violation" (exit status 1).
`--only 17` reads one case again.
"""

import argparse
import json
import os
import pickle
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from apps.convert import convert, every_form
from media.caption_files import read_captions
from media.inputs import find_inputs
from media.texts import read_texts
from models.captioner.checkpoint import load_captioner
from models.load import ModelChoice, load
from pairs.label_files import open_labels
from store.forms import SaveNpz, SavePickle
from store.hdf5 import SaveHdf5
from tests.fuzz.forks import available_cores, outcomes
from tests.fuzz.jobs import EVERY_FORM, OUT
from tests.fuzz.media import show
from tests.fuzz.mutate import mutate
from tests.fuzz.runs import run
from tests.fuzz.seeds import write_videos
from tests.helpers.tiny_clip import TINY, tiny_model
from training import checkpoint
from utils.errors import UserError

Read = Callable[[Path], object]


class Evil:
    """What a pickle may hold: a command. It leaves a file behind where it runs."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, (f"touch '{self._mark}'",)


class Inputs:
    """Whole files of each kind, made here, and how each is read."""

    def __init__(self, home: Path) -> None:
        self.home, self.mark = home, home / "evil was here"
        self.scratch = home / "scratch"
        self.scratch.mkdir()
        self.readers: dict[str, Read] = {}  # by the name of a file or folder below `whole`
        self._whole = home / "whole"
        self._whole.mkdir()
        self._write_checkpoints()
        self._write_lists()
        self._write_results()
        self.names = sorted(self.readers)

    def _write_checkpoints(self) -> None:
        small = {key: value[:64] if key == "token_embedding.weight" else value for key, value in _state().items()}
        as_model = {"clip.pt": _state(), "cut.pt": small, "numbers.pt": {"state_dict": {"a": 1, "b": [1.5, None]}}}
        for name, content in as_model.items():
            self._add(name, lambda path: load(ModelChoice(model_name=str(path), device="cpu", offline=True)))
            torch.save(content, self._whole / name)
        save_file(_state(), self._whole / "clip.safetensors")
        self.readers["clip.safetensors"] = self.readers["clip.pt"]
        for name, read in (("captioner.pt", load_captioner), ("last.pt", checkpoint.load)):
            self._add(name, read)
            described = {"words": ["a", "b"], "arguments": {"vocab_size": 6, "grid_width": 7}, "captioner": small}
            of_training = {"model": small, "optimizer": {}, "schedule": {}, "rng": [], "position": {}}
            torch.save(described | {"features": {}} | of_training, self._whole / name)
        for name in ("clip.pt", "captioner.pt", "last.pt"):
            evil = f"evil_{name}"
            self._add(evil, self.readers[name])
            torch.save({"model": Evil(self.mark), "captioner": Evil(self.mark)}, self._whole / evil)
        (self._whole / "plain_evil.pt").write_bytes(pickle.dumps(Evil(self.mark)))
        self.readers["plain_evil.pt"] = self.readers["clip.pt"]

    def _write_lists(self) -> None:
        lines = "".join(f"{name}.mp4\n" for name in ("a", "b b", "'c'", "ünï", "/tmp/x", "# no", "", "-d"))
        karpathy = {"images": [{"filename": "a.jpg", "imgid": 1, "sentences": [{"raw": "a cat", "tokens": ["a"]}]}]}
        texts: dict[str, tuple[str, Read]] = {
            "videos.txt": (lines, lambda path: find_inputs(file_with_video_paths=str(path))),
            "images.txt": (lines, lambda path: find_inputs(file_with_image_paths=str(path))),
            "ids.txt": (
                "1, a.jpg\n2, b.jpg\n",
                lambda path: find_inputs(file_with_image_paths=str(path), id_mode="column"),
            ),
            "texts.txt": (lines, lambda path: [list(read_texts(item)) for item in _texts(file_with_texts=path)]),
            "karpathy.json": (json.dumps(karpathy), lambda path: _texts(annotations=path)),
            "captions.json": (json.dumps(karpathy), lambda path: read_captions(path, key="data_path")),
            "captions.csv": ("image,caption,id\na.jpg,a cat,1\n", lambda path: read_captions(path, key="data_path")),
            "labels.json": (json.dumps({"words": ["a"], "images": []}), lambda path: open_labels(str(path))),
        }
        for name, (text, read) in texts.items():
            self._add(name, read)
            (self._whole / name).write_text(text * 3 if name.endswith("s.txt") else text, encoding="utf-8")

    def _write_results(self) -> None:
        list(write_videos(self._whole, ["h264.mp4", "flv1.flv"]))
        given = (f"video_paths={self._whole}", "model_name=tiny", "device=cpu", "extraction_fps=2", EVERY_FORM)
        place = self.home / "extracted"
        place.mkdir()
        ended = run([*given, "show_pred=true", "pred_texts=[a cat, a dog]", f"output_path={OUT}"], place)
        assert ended.status == 0, ended.output
        self._evil_results(place / OUT)
        shutil.move(place / OUT, self._whole / "results")
        self._add("results", self._convert)

    def _evil_results(self, folder: Path) -> None:
        """One saved array holds a command."""
        path = next(folder.rglob("flv1_fps.pkl"))
        path.write_bytes(pickle.dumps(Evil(self.mark)))

    def _convert(self, folder: Path) -> object:
        forms = every_form("extract/on_extraction")
        saving = [SaveNpz(), SavePickle(), SaveHdf5()]
        return convert(input_path=str(folder), forms=forms, on_extraction=saving, output_path=folder / "converted")

    def _add(self, name: str, read: Read) -> None:
        self.readers[name] = read

    def name(self, number: int) -> str:
        return self.names[number % len(self.names)]

    def read(self, seed: int, number: int) -> str:
        """What came of damaging input `number` (in turn) and reading it."""
        rng, name = random.Random(f"{seed}:{number}"), self.name(number)
        place = self.scratch / f"{os.getpid()}_{name}"
        target = self._damaged_folder(place, rng) if name == "results" else self._damaged_file(name, place, rng)
        try:
            with open(os.devnull, "w") as nowhere:
                sys.stderr = sys.stdout = nowhere
                self.readers[name](place)
            outcome = "read"
        except UserError as error:
            outcome = "refused"
            if "\n" in str(error) or len(str(error)) > 1000:
                outcome = f"violation: message of several lines or too long: {str(error)[:200]!r}"
            elif Path(target).name not in str(error) and "file_with_" not in str(error):  # or one of its lines
                outcome = f"violation: does not name the file: {str(error)[:200]!r}"
        finally:
            sys.stderr, sys.stdout = sys.__stderr__, sys.__stdout__
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        if self.mark.exists():
            self.mark.unlink()
            outcome = "violation: a pickle ran its command"
        return outcome

    def _damaged_file(self, name: str, place: Path, rng: random.Random) -> Path:
        data = (self._whole / name).read_bytes()
        if not name.startswith(("evil", "plain_evil")) or rng.random() < 0.5:
            data, _ = mutate(data, rng, [data])
        place.write_bytes(data)
        return place

    def _damaged_folder(self, place: Path, rng: random.Random) -> Path:
        """One or two of its files, or numbers and words in a json file."""
        shutil.copytree(self._whole / "results", place)
        files = sorted(path for path in place.rglob("*") if path.is_file())
        for path in rng.sample(files, rng.choice((1, 1, 2))):
            data = path.read_bytes()
            json_text = path.suffix == ".json" and rng.random() < 0.7
            path.write_bytes(_other_json(data, rng) if json_text else mutate(data, rng, [data])[0])
        return place


_VALUES = (None, True, -1, 0, 10**30, 1e308, "", "x" * 300, "../../up", "/etc/passwd", "a\0b", "\ud800", [], {}, [[]])


def _other_json(data: bytes, rng: random.Random) -> bytes:
    """One value, at any depth, becomes another, a key is lost, or one is new."""
    content = json.loads(data)
    node, path = content, []
    while isinstance(node, dict | list) and node and (not path or rng.random() < 0.75):
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        path.append((node, key))
        node = node[key]
    parent, key = path[-1]
    what = rng.random()
    if what < 0.15:
        del parent[key]
    elif what < 0.25 and isinstance(parent, dict):
        parent[f"{key}_"] = parent[key]
    else:
        parent[key] = rng.choice(_VALUES)
    return json.dumps(content).encode()


def _state() -> dict[str, torch.Tensor]:
    return {key: value.contiguous() for key, value in tiny_model(architecture=TINY).state_dict().items()}


def _texts(**given: Path) -> list:
    return find_inputs(**{key: str(path) for key, path in given.items()}).get("text", [])


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.inputs", description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=30.0, help="seconds a case may take")
    parser.add_argument("--processes", type=int, default=available_cores())
    parser.add_argument("--only", type=int)
    given, started = parser.parse_args(words), time.monotonic()
    home, table, bad = Path(tempfile.mkdtemp()), defaultdict(Counter), []
    try:
        inputs = Inputs(home)
        numbers = [given.only] if given.only is not None else range(given.num)
        read = lambda number: inputs.read(given.seed, number)  # noqa: E731
        for number, outcome in outcomes(numbers, read, processes=given.processes, limit_seconds=given.limit):
            table[outcome.partition(": ")[0]][inputs.name(number)] += 1
            if outcome not in ("read", "refused"):
                bad.append(f"case {number} ({inputs.name(number)}): {outcome}")
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print("\n".join(sorted(bad)[:200]))
    show(table)
    print(f"{len(numbers)} inputs, seed {given.seed}, {time.monotonic() - started:.0f} s")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
