"""Readers for files of captions: Karpathy's json and `image,caption,id` csv files."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from utils.errors import UserError

CSV_COLUMNS = ("image", "caption", "id")


@dataclass(frozen=True)
class Caption:
    raw: str  # as people wrote it
    tokens: tuple[str, ...] = ()  # Karpathy's lower-case words without punctuation; () where the file has none

    def __post_init__(self) -> None:
        if not isinstance(self.raw, str):
            raise TypeError(f"expected a caption, found {self.raw!r}")


@dataclass(frozen=True)
class CaptionedFile:
    """An image file and its captions."""

    files: tuple[str, ...]  # where it may lie below the folder of images, the likeliest first
    id: str  # COCO's image id; for sets without (Flickr8k, Flickr30k) the file name's stem
    number: int  # COCO's image id, else the file's own running number
    captions: tuple[Caption, ...]
    split: str = ""  # "train", "restval", "val", "test"; "" in csv files, which have none

    @property
    def texts(self) -> list[str]:
        return [caption.raw for caption in self.captions]


def read_karpathy(path: str | Path, *, key: str) -> list[CaptionedFile]:
    """`{"images": [{filename, split, sentences: [{raw, tokens}], filepath, cocoid, imgid}]}`; the last three and
    `tokens` may be absent. UserErrors start with `key`, the option that `path` was given by.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{key}={path}: expected Karpathy's json with a list `images` ({error!r})") from error
    return karpathy_images(content, f"{key}={path}")


def karpathy_images(content: Any, where: str) -> list[CaptionedFile]:
    """Of json that has been read; UserErrors start with `where`."""
    try:
        entries = content["images"]
        if not isinstance(entries, list):
            raise TypeError(f"`images` is a {type(entries).__name__}")
    except (KeyError, TypeError) as error:
        raise UserError(f"{where}: expected Karpathy's json with a list `images` ({error!r})") from error
    return [_karpathy_image(entry, index, where) for index, entry in enumerate(entries)]


def _karpathy_image(entry: Any, index: int, where: str) -> CaptionedFile:
    missing = {"filename", "split", "sentences"} - set(entry if isinstance(entry, dict) else ())
    if missing:
        raise UserError(f"{where}: an image lacks {', '.join(sorted(missing))}: {str(entry)[:100]}")
    name, folder = entry["filename"], entry.get("filepath")
    try:
        captions = tuple(Caption(each["raw"], tuple(each.get("tokens", ()))) for each in entry["sentences"])
        return CaptionedFile(
            files=_candidates(f"{folder}/{name}" if folder else name),
            id=str(int(entry["cocoid"])) if "cocoid" in entry else PurePosixPath(name).stem,
            number=int(entry.get("cocoid", entry.get("imgid", index))),
            captions=captions,
            split=entry["split"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: image {name} is not as in Karpathy's json ({error!r})") from error


def read_captions_csv(path: str | Path, *, key: str, need_ids: bool = True) -> list[CaptionedFile]:
    """`image,caption,id` below a header line, one row a caption; rows that name the same image are put together.

    `need_ids=False` ignores the ids, which may then be absent, and numbers the images. UserErrors start with `key`.
    """
    rows = csv_rows(Path(path), key, CSV_COLUMNS if need_ids else CSV_COLUMNS[:2])
    captions: dict[str, list[Caption]] = {}
    numbers: dict[str, int] = {}
    for line, row in enumerate(rows, start=2):
        name, number = row["image"], row["id"] if need_ids else str(numbers.get(row["image"], len(numbers)))
        if not name or not row["caption"] or not (number and number.isascii() and number.isdigit()):
            expected = "an image, a caption and a whole number as id" if need_ids else "an image and a caption"
            raise UserError(f"{key}={path}, row {line}: expected {expected}, found {row}")
        number = int(number)
        if numbers.setdefault(name, number) != number:
            raise UserError(f"{key}={path}, row {line}: {name} has id {number} here, {numbers[name]} further up")
        captions.setdefault(name, []).append(Caption(row["caption"]))
    if not captions:
        raise UserError(f"{key}={path}: no captions below the header")
    return [
        CaptionedFile(_candidates(name), PurePosixPath(name).stem, numbers[name], tuple(texts))
        for name, texts in captions.items()
    ]


def csv_rows(path: Path, key: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows below a header line that has these columns, perhaps others. UserErrors start with `key`."""
    expected = f"expected a csv file with {','.join(CSV_COLUMNS)}"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            missing = sorted(set(columns) - set(reader.fieldnames or ()))
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{key}={path}: {expected} ({error!r})") from error
    if missing:
        raise UserError(f"{key}={path}: {expected} in its header line; missing: {', '.join(missing)}")
    return rows


def _candidates(name: str) -> tuple[str, ...]:
    """COCO's images lie below a folder for each split, those of other sets, and of copies, often do not."""
    return tuple(dict.fromkeys((name, PurePosixPath(name).name)))
