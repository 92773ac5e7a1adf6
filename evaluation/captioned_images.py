"""Pictures with their captions, to be found by each other (config group `pairs`)."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from evaluation.subject import OpenImage, open_image
from utils.errors import UserError, check_count
from utils.scenes.scenes import Scenes


@dataclass(frozen=True)
class CaptionedImages:
    """`captions[k]`, one or more, belong to the picture that `images[k]` opens. `data` says where they come from."""

    images: Sequence[OpenImage]
    captions: list[list[str]]
    data: dict[str, Any]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.captions) or not all(self.captions):
            raise ValueError(f"{len(self.images)} images, {len(self.captions)} lists of captions, none may be empty")


def karpathy(*, captions_path: str | None, image_folder: str | None, split: str | None = "test") -> CaptionedImages:
    """Karpathy's json (`images`: filename, filepath, split, sentences: raw). `split=null` takes all images."""
    path = _given(captions_path, "captions_path", "Karpathy's json")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["images"]
        splits = {entry["split"] for entry in entries}
        chosen = [entry for entry in entries if split in (None, entry["split"])]
        captions = {_name(entry): [sentence["raw"] for sentence in entry["sentences"]] for entry in chosen}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"captions_path={path}: expected Karpathy's json with a list `images` ({error!r})") from error
    if not chosen:
        raise UserError(f"split={split}: no such images in {path}; its splits: {', '.join(sorted(splits))}")
    return _from_files(path, _given(image_folder, "image_folder", "the images' folder"), captions, split)


def captions_csv(*, captions_path: str | None, image_folder: str | None) -> CaptionedImages:
    """`image,caption,id` with a header line, one row a caption; rows that name the same image belong together."""
    path = _given(captions_path, "captions_path", "a csv file with image,caption")
    captions: dict[str, list[str]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file, skipinitialspace=True):
                captions.setdefault(row["image"], []).append(row["caption"])
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"captions_path={path}: expected a csv file with image,caption,id ({error!r})") from error
    if not captions:
        raise UserError(f"captions_path={path}: no rows below the header")
    return _from_files(path, _given(image_folder, "image_folder", "the images' folder"), captions, None)


def scenes(
    *, num_scenes: int = 200, seed: int = 100, resolution: int = 64, split: str = "test", captions_per_image: int = 1
) -> CaptionedImages:
    """Drawn scenes with different facts. With the default `split`, no training scene shows the same combination."""
    check_count("captions_per_image", captions_per_image)
    drawn = Scenes(num_scenes, seed=seed, resolution=resolution, split=split, unique=True)  # pyright: ignore[reportArgumentType]
    return CaptionedImages(
        images=[partial(_scene_image, drawn, k) for k in range(num_scenes)],
        captions=[drawn.scene(k).captions[:captions_per_image] for k in range(num_scenes)],
        data={"scenes": num_scenes, "seed": seed, "resolution_px": resolution, "split": split},
    )


def _scene_image(drawn: Scenes, index: int) -> Image.Image:
    return Image.fromarray(drawn.scene(index).image)


def _name(entry: dict[str, Any]) -> str:
    folder = entry.get("filepath")
    return f"{folder}/{entry['filename']}" if folder else entry["filename"]


def _given(path: str | None, key: str, expected: str) -> Path:
    if not path:
        raise UserError(f"{key}: expected {expected}")
    return Path(path).expanduser()


def _from_files(path: Path, folder: Path, captions: dict[str, list[str]], split: str | None) -> CaptionedImages:
    """COCO's images lie below a folder per split, those of other sets often do not: both are found."""
    files = [
        next((file for file in (folder / name, folder / Path(name).name) if file.is_file()), None) for name in captions
    ]
    missing = [name for name, file in zip(captions, files, strict=True) if file is None]
    if missing:
        raise UserError(
            f"image_folder={folder}: {len(missing)} of {len(captions)} images are missing: {missing[0]} ..."
        )
    return CaptionedImages(
        images=[partial(open_image, file) for file in files if file],
        captions=list(captions.values()),
        data={"captions_path": str(path), "image_folder": str(folder), "split": split},
    )
