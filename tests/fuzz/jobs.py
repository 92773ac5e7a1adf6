"""Small jobs of every kind that writes, and what they leave behind, in a form that can be compared."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import torch

from tests.fuzz.runs import run
from tests.fuzz.seeds import write_videos
from tests.helpers.small_data import write_images

OUT = "out"  # relative, so that no path differs between two runs
EVERY_FORM = "on_extraction=[save_numpy,save_pickle,save_npz,save_hdf5,save_xmodaler_video]"
EVERY_FORM_OF_ROWS = "on_extraction=[save_numpy,save_pickle,save_npz,save_hdf5]"
_LEFT_BEHIND = (".part", ".locks", ".lock", ".running", ".tmp")
# Accounts tell of every run, killed ones too; TensorBoard's files have the time in their name.
_ACCOUNTS = ("ledger.jsonl", "tensorboard")


@dataclass(frozen=True)
class Job:
    """Arguments for `main.py`, in a folder of its own; results go to `out`."""

    name: str
    arguments: tuple[str, ...]


def make_jobs(folder: Path, *, items: int = 4) -> dict[str, Job]:
    """By name. Inputs are written to `folder`, `items` of each kind."""
    videos = folder / "videos"
    videos.mkdir(parents=True)
    list(write_videos(videos, ["h264.mp4", "vp9.webm", "mpeg4.avi", "h264.mkv", "h264.ts", "flv1.flv"][:items]))
    write_images(folder / "images", 4 * items)
    (folder / "texts.txt").write_text("".join(f"a photo of {number} cats\n" for number in range(4 * items)))
    model = ("model_name=tiny", "device=cpu", "batch_size=8", f"output_path={OUT}")
    given = {
        "videos": (*model, f"video_paths={videos}", EVERY_FORM),
        "videos at 2 fps": (*model, f"video_paths={videos}", EVERY_FORM, "extraction_fps=2"),
        "grids of videos": (*model, f"video_paths={videos}", EVERY_FORM, "extraction_fps=2", "features=[global,grid]"),
        "images": (*model, f"image_paths={folder / 'images'}", EVERY_FORM_OF_ROWS),
        "texts": (*model, f"file_with_texts={folder / 'texts.txt'}", EVERY_FORM_OF_ROWS),
        "convert": (
            *("--config-name", "convert", f"input_path={folder / 'saved' / OUT}"),
            *("on_extraction=[save_pickle,save_npz,save_hdf5]", f"output_path={OUT}"),
        ),
        "train": (
            *("--config-name", "train", "experiment=smoke", "data=scenes", "data.count=12", "data.validation_count=4"),
            *("vision.patch_size=16", "vision.width=32", "vision.layers=1", "vision.heads=1", "text.width=32"),
            *("text.heads=1", "epochs=3", "max_steps=6", "save_every_steps=1", f"output_path={OUT}"),
        ),
        "caption_train": (
            *("--config-name", "caption_train", "caption_experiment=[mle,smoke]", "caption_data.resolution=64"),
            *("caption_data.seed=0", "max_steps=8", "epochs=3", "save_every_steps=1", f"output_path={OUT}"),
        ),
    }
    return {name: Job(name, arguments) for name, arguments in given.items()}


def prepare_convert(jobs: dict[str, Job], folder: Path) -> None:
    """What `convert` reads: saved images."""
    place = folder / "saved"
    place.mkdir()
    arguments = [each for each in jobs["images"].arguments if not each.startswith("on_extraction")]
    ended = run([*arguments, "on_extraction=save_numpy"], place)
    assert ended.status == 0, ended.output


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Words for people; empty where two `results` are the same."""
    missing = [f"missing: {name}" for name in expected.keys() - found.keys()]
    more = [f"left behind: {name}" for name in found.keys() - expected.keys()]
    other = [f"other content: {name}" for name in expected.keys() & found.keys() if expected[name] != found[name]]
    return sorted(missing + more + other)


def results(folder: Path) -> dict[str, str]:
    """Of every file and empty folder below `folder` its relative name and a checksum of what must not change.

    Byte by byte, but for: `saved` (a time) in records, those inside HDF5 too, whose objects are compared one by one;
    `seconds` and `time` in log.jsonl, in which a repeated epoch stands twice; checkpoints, whose tensors and values are
    compared (to the bit), not the archive around them. Accounts of runs are left out.
    """
    found = {}
    for place, folders, files in os.walk(folder):
        relative = Path(place).relative_to(folder)
        if any(part in _ACCOUNTS for part in relative.parts):
            continue
        if not folders and not files:
            found[f"{relative}/"] = "an empty folder"
        for name in files:
            if name not in _ACCOUNTS:
                path = Path(place) / name
                found[str(relative / name)] = _content(path)
    return found


def left_behind(found: dict[str, str]) -> list[str]:
    """Temporary files and locks among `results`."""
    return [name for name in found if any(part.endswith(_LEFT_BEHIND) for part in Path(name).parts)]


def _content(path: Path) -> str:
    readers: dict[str, Callable[[Path], Any]] = {
        ".h5": _hdf5,
        ".pt": lambda path: torch.load(path, map_location="cpu", weights_only=True),
        ".jsonl": _log,
    }
    if path.name.endswith("_meta.json"):
        return _digest(_without_times(json.loads(path.read_bytes())))
    if path.suffix not in readers:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        return _digest(readers[path.suffix](path))
    except Exception as error:
        return f"unreadable: {error}"


def _without_times(record: Any) -> Any:
    if not isinstance(record, dict):
        return record
    return {key: value for key, value in record.items() if key not in ("saved", "seconds", "time")}


def _log(path: Path) -> Any:
    lines = [json.dumps(_without_times(json.loads(line))) for line in path.read_text().splitlines() if line]
    return list(dict.fromkeys(lines))


def _hdf5(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with h5py.File(path, "r") as file:

        def visit(name: str, node: Any) -> None:
            attributes = {key: _record(value) for key, value in sorted(node.attrs.items())}
            found[name] = (attributes, node[()].tobytes().hex() if hasattr(node, "shape") else None)

        visit("/", file)
        file.visititems(visit)
    return dict(sorted(found.items()))


def _record(value: Any) -> Any:
    try:
        return _without_times(json.loads(value))
    except (TypeError, ValueError):
        return str(value)


def _digest(value: Any) -> str:
    return hashlib.sha256(_bytes(value)).hexdigest()


def _bytes(value: Any) -> bytes:
    if isinstance(value, torch.Tensor):
        plain = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return repr((value.dtype, tuple(value.shape))).encode() + plain
    if isinstance(value, dict):
        return b"{" + b",".join(_bytes(key) + b":" + _bytes(each) for key, each in value.items()) + b"}"
    if isinstance(value, list | tuple):
        return b"[" + b",".join(map(_bytes, value)) + b"]"
    return repr(value).encode()
