"""Files of captions: predictions of any captioner, references in the layouts people have them in.

Image ids are texts: 42 and "42" are the same image.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from media.caption_files import check_distinct, karpathy_entries, read_captions_csv
from media.images import load_image
from media.naming import coco_number
from pairs.picture_folders import OpenImage
from store.record import PREDICTIONS
from utils.errors import UserError, did_you_mean

_REFERENCES = "COCO's json (annotations: image_id, caption), Karpathy's json, {image_id: [captions]} or a csv file"


@dataclass(frozen=True)
class References:
    """By image id: captions, and where the image may lie below the folder of images, as far as that is known."""

    captions: dict[str, list[str]]
    files: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read_predictions(path: Path) -> dict[str, str]:
    """COCO's results, [{image_id, caption}], or {image_id: caption}: one caption an image, empty ones allowed.

    Also a folder that `--config-name caption` wrote: the files' names are the image ids.
    """
    pairs = _saved_captions(path) if path.is_dir() else _listed_captions(path)
    for image_id, caption in pairs:
        _check(path, "predictions", image_id, caption)
    counts = Counter(str(image_id) for image_id, _ in pairs)
    twice = [image_id for image_id, count in counts.items() if count > 1]
    if twice:
        raise UserError(
            f"predictions={path}: {len(twice)} image(s) with several captions, image {twice[0]} with "
            f"{counts[twice[0]]}; expected one each, of one captioner, and no videos"
        )
    if not pairs:
        raise UserError(f"predictions={path}: no captions in it")
    return {str(image_id): caption for image_id, caption in pairs}


def _listed_captions(path: Path) -> list[tuple[Any, Any]]:
    content = _read_json(path, "predictions", "[{image_id, caption}]")
    if isinstance(content, dict):
        return list(content.items())
    try:
        return [(entry["image_id"], entry["caption"]) for entry in content]
    except (KeyError, TypeError) as error:
        raise UserError(f"predictions={path}: expected a list of {{image_id, caption}} ({error!r})") from error


def _saved_captions(folder: Path) -> list[tuple[str, Any]]:
    """In all sub folders: two captioners' captions of one image count as several of it."""
    pairs = []
    for file in sorted(folder.rglob(f"*{PREDICTIONS}")):
        rows: Any = _read_json(file, "predictions", "rows of captions")
        if not isinstance(rows, list) or not all(isinstance(row, dict) and "caption" in row for row in rows):
            raise UserError(f"predictions={file}: expected captions, as --config-name caption saves them")
        pairs += [(file.name.removesuffix(PREDICTIONS), row["caption"]) for row in rows]
    return pairs


def read_references(path: Path, *, split: str | None = None, asked: Collection[str] = ()) -> References:
    """`split` chooses images of files that tell it; null takes all. Images without captions are left out.

    `asked` are ids of predictions: an image that goes by another of its `names` there goes by that one here.
    """
    where, listed, content = f"references={path}", None, None
    if path.suffix.lower() == ".csv":
        listed = read_captions_csv(path, key="references")
    else:
        content = _read_json(path, "references", _REFERENCES)
        if isinstance(content, dict) and "images" in content and "annotations" not in content:
            listed = karpathy_entries(content, where)
    if split:
        _check_split(split, [image.split for image in listed or ()], where)
    if listed is None:
        found = _from_coco_or_plain(path, content)
    else:
        listed = [replace(image, id=next(filter(asked.__contains__, image.names), image.id)) for image in listed]
        check_distinct([image.id for image in listed], where)
        chosen = [image for image in listed if image.captions and split in (None, image.split)]
        found = References({image.id: image.texts for image in chosen}, {image.id: image.files for image in chosen})
    for image_id, captions in found.captions.items():
        for caption in captions:
            _check(path, "references", image_id, caption)
    if not found.captions:
        raise UserError(f"{where}: no captions in it" + (f" for split={split}" if split else ""))
    return found


def _check_split(split: str, of_images: Iterable[str], where: str) -> None:
    there = Counter(name for name in of_images if name)
    if not there:
        raise UserError(f"split={split}: {where} has no splits; leave split out, or give Karpathy's json")
    if split not in there:
        counts = ", ".join(f"{name} ({count} images)" for name, count in there.items())
        raise UserError(f"split={split}: {did_you_mean(split, there)}{where} has the splits {counts}")


def find_images(references: References, image_ids: Iterable[str], folder: Path) -> list[OpenImage]:
    """By the file names of the references, else a file called by the id: `42.jpg`, `COCO_val2014_000000000042.jpg`.

    UserError names what is missing.
    """
    if not folder.is_dir():
        raise UserError(f"image_folder={folder}: no such folder")
    called, files, missing = _by_id(path.name for path in sorted(folder.iterdir())), [], []
    for image_id in image_ids:
        names = (*references.files.get(image_id, ()), called.get(image_id, image_id))
        file = next((folder / name for name in names if (folder / name).is_file()), None)
        (missing if file is None else files).append(file or names[0])
    if missing:
        raise UserError(f"image_folder={folder}: {len(missing)} images are missing: {missing[0]} ...")
    return [partial(load_image, file) for file in files]


def _by_id(names: Iterable[str]) -> dict[str, str]:
    """File names by stem and, where only one file has it, by COCO's number."""
    names = list(names)
    numbers = {name: number for name in names if (number := coco_number(name))}
    times = Counter(numbers.values())
    by_number = {number: name for name, number in numbers.items() if times[number] == 1}
    return by_number | {Path(name).stem: name for name in names}


def _from_coco_or_plain(path: Path, content: Any) -> References:
    try:
        if "annotations" in content:
            return _from_coco(content)
        captions = {key: [value] if isinstance(value, str) else value for key, value in content.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"references={path}: expected {_REFERENCES} ({error!r})") from error
    for key, texts in captions.items():
        if not isinstance(texts, list):
            raise UserError(f"references={path}: expected {_REFERENCES}; image {key} has {texts!r:.60}")
    return References({key: texts for key, texts in captions.items() if texts})


def _from_coco(content: Mapping[str, Any]) -> References:
    captions: dict[str, list[str]] = {}
    for annotation in content["annotations"]:
        captions.setdefault(str(annotation["image_id"]), []).append(annotation["caption"])
    images = content.get("images", [])
    named = [image for image in images if isinstance(image.get("file_name"), str)]  # valid without; scores need none
    return References(captions, {str(image["id"]): (image["file_name"],) for image in named})


def _read_json(path: Path, key: str, expected: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{key}={path}: expected {expected} ({error})") from error


def _check(path: Path, key: str, image_id: Any, caption: Any) -> None:
    if isinstance(image_id, bool) or not isinstance(image_id, int | str):
        raise UserError(f"{key}={path}: image_id {image_id!r}: expected a whole number or a text")
    if not isinstance(caption, str):
        raise UserError(f"{key}={path}: the caption of image {image_id} is {caption!r}; expected a text")
