"""Files of images with captions, read in one place: Karpathy's json and csv files with `image,caption`.

An image's id is COCO's number or the csv's column `id`, else the stem of its file; csv files may have a column `split`.
"""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from media.text_files import read_text
from utils.errors import UserError, first_line

CSV_COLUMNS = ("image", "caption", "id")


@dataclass(frozen=True)
class Caption:
    raw: str  # as people wrote it
    tokens: tuple[str, ...] = ()  # Karpathy's lower-case words without punctuation; () where the file has none

    def __post_init__(self) -> None:
        if not isinstance(self.raw, str):
            raise TypeError(f"expected a caption, found {self.raw!r}")
        if not all(isinstance(token, str) for token in self.tokens):
            raise TypeError(f"expected words, found {self.tokens!r}")


@dataclass(frozen=True)
class CaptionedFile:
    """An image file and its captions."""

    files: tuple[str, ...]  # where it may lie below the folder of images, the likeliest first
    id: str
    number: int  # the id where it is a whole number, else a running one
    captions: tuple[Caption, ...]
    split: str = ""  # "train", "restval", "val", "test"; "" where the file tells none

    @property
    def texts(self) -> list[str]:
        return [caption.raw for caption in self.captions]

    @property
    def stem(self) -> str:
        return PurePosixPath(self.files[0]).stem


def read_captions(path: str | Path, *, key: str) -> list[CaptionedFile]:
    """Either format, told by the ending. UserErrors start with `key`, the option that `path` was given by."""
    return (read_captions_csv if Path(path).suffix.lower() == ".csv" else read_karpathy)(path, key=key)


def read_karpathy(path: str | Path, *, key: str) -> list[CaptionedFile]:
    """`{"images": [{filename, split, sentences: [{raw, tokens}], filepath, cocoid, imgid}]}`; the last three and
    `tokens` may be absent.
    """
    try:
        content = json.loads(read_text(path))
    except OSError as error:
        raise UserError(f"{key}={path}: cannot be read ({error.strerror}); expected Karpathy's json") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{key}={path}: expected Karpathy's json with a list `images` ({first_line(error)})") from error
    return karpathy_entries(content, f"{key}={path}")


def karpathy_entries(content: Any, where: str) -> list[CaptionedFile]:
    """Of json that has been read; UserErrors start with `where`."""
    try:
        entries = content["images"]
        if not isinstance(entries, list):
            raise TypeError(f"`images` is a {type(entries).__name__}")
    except (KeyError, TypeError) as error:
        raise UserError(f"{where}: expected Karpathy's json with a list `images` ({error!r})") from error
    return [_karpathy_entry(entry, index, where) for index, entry in enumerate(entries)]


def _karpathy_entry(entry: Any, index: int, where: str) -> CaptionedFile:
    missing = {"filename", "split", "sentences"} - set(entry if isinstance(entry, dict) else ())
    if missing:
        raise UserError(f"{where}: an image lacks {', '.join(sorted(missing))}: {str(entry)[:100]}")
    name, folder = entry["filename"], entry.get("filepath")
    try:
        if not isinstance(entry["split"], str):
            raise TypeError(f"expected a split, found {entry['split']!r}")
        captions = tuple(Caption(each["raw"], tuple(each.get("tokens", ()))) for each in entry["sentences"])
        return CaptionedFile(
            files=_candidates(f"{folder}/{name}" if folder else name),
            id=str(int(entry["cocoid"])) if "cocoid" in entry else PurePosixPath(name).stem,
            number=int(entry.get("cocoid", entry.get("imgid", index))),
            captions=captions,
            split=entry["split"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{where}: image {str(name)[:100]} is not as in Karpathy's json ({error!r})") from error


def read_captions_csv(path: str | Path, *, key: str, need_numbers: bool = False) -> list[CaptionedFile]:
    """`image,caption` below a header line, perhaps `id` and `split`; one row a caption.

    `need_numbers`: ids have to be there, and whole numbers. UserError for them and for an image with two ids.
    """
    images: dict[str, CaptionedFile] = {}
    captions: dict[str, list[Caption]] = {}
    for line, row in enumerate(_csv_rows(Path(path), key, CSV_COLUMNS[: 3 if need_numbers else 2]), start=2):
        name, given, where = row["image"], row.get("id") or "", f"{key}={path}, row {line}"
        is_number = given.isascii() and given.isdigit()
        if not name or not row["caption"] or (need_numbers and not is_number):
            expected = "an image, a caption and a whole number as id" if need_numbers else "an image and a caption"
            raise UserError(f"{where}: expected {expected}, found {row}")
        image_id, number = given or PurePosixPath(name).stem, int(given) if is_number else len(images)
        image = images.setdefault(
            name, CaptionedFile(_candidates(name), image_id, number, (), split=row.get("split") or "")
        )
        if image.id != image_id:
            raise UserError(f"{where}: {name} has id {image_id} here, {image.id} further up")
        captions.setdefault(name, []).append(Caption(row["caption"]))
    if not images:
        raise UserError(f"{key}={path}: no captions below the header")
    return [replace(image, captions=tuple(captions[name])) for name, image in images.items()]


def _csv_rows(path: Path, key: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    expected = f"expected a csv file with {','.join(CSV_COLUMNS)}"
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""), skipinitialspace=True)
        missing = sorted(set(columns) - set(reader.fieldnames or ()))
        rows = list(reader)
    except OSError as error:
        raise UserError(f"{key}={path}: {expected}; it cannot be read ({error.strerror})") from error
    except (ValueError, csv.Error) as error:
        raise UserError(f"{key}={path}: {expected} ({first_line(error)})") from error
    if missing:
        raise UserError(f"{key}={path}: {expected} in its header line; missing: {', '.join(missing)}")
    return rows


def check_distinct(names: Iterable[str], where: str) -> None:
    """UserError, which starts with `where`, if two images would be taken for one."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"{where}: the id {name} stands for several images; ids must differ")
        seen.add(name)


def _candidates(name: str) -> tuple[str, ...]:
    """COCO's images lie below a folder for each split, those of other sets, and of copies, often do not."""
    return tuple(dict.fromkeys((name, PurePosixPath(name).name)))
