"""Files of images with captions, read in one place: Karpathy's json and csv files with `image,caption`.

An image's id is COCO's number (`cocoid`) or the csv's column `id`, else the stem of its file; `split` is a field or a
column. Every job that takes captions reads them here.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from media.naming import coco_number
from media.text_files import read_text
from utils.errors import UserError, first_line

CSV_COLUMNS = ("image", "caption")  # and perhaps `id` and `split`
_LONGEST_NUMBER = 18  # digits: more do not fit into int64


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
    number: int  # the same for equal ids: the ids where all of them are whole numbers, else counted from 0
    captions: tuple[Caption, ...]
    split: str = ""  # "train", "restval", "val", "test"; "" where the file tells none

    @property
    def texts(self) -> list[str]:
        return [caption.raw for caption in self.captions]

    @property
    def names(self) -> tuple[str, ...]:
        return names_of(self.id, self.files[0])


def names_of(image_id: str, file: str) -> tuple[str, ...]:
    """What an image may be called by features or captions of it, the likeliest first: its id, its file without the
    ending, that without the folders, and the number that `id_mode=coco_int` names it by.
    """
    path = PurePosixPath(file)
    names = (image_id, path.with_suffix("").as_posix(), path.stem, coco_number(path.name)) if path.name else (image_id,)
    return tuple(dict.fromkeys(filter(None, names)))


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


def read_captions_csv(path: str | Path, *, key: str) -> list[CaptionedFile]:
    """`image,caption` below a header line, perhaps `id` and `split`, which may be empty; one row a caption.

    UserError for an image with two ids or two splits.
    """
    captions: dict[str, list[Caption]] = {}
    told: dict[str, dict[str, str]] = {"id": {}, "split": {}}  # column -> image -> what a row says
    for line, row in enumerate(_csv_rows(Path(path), key), start=2):
        name, where = row["image"], f"{key}={path}, row {line}"
        if None in row:  # a caption cut at its comma would be learned without a complaint
            raise UserError(f"{where}: more fields than the header; a caption with commas stands in quotation marks")
        if not name or not row["caption"]:
            raise UserError(f"{where}: expected an image and a caption, found {row}")
        for column, known in told.items():
            value = row.get(column) or known.get(name, "")
            if known.setdefault(name, value) not in ("", value):
                raise UserError(f"{where}: {name} has {column} {value} here, {known[name]} further up")
            known[name] = value
        captions.setdefault(name, []).append(Caption(row["caption"]))
    if not captions:
        raise UserError(f"{key}={path}: no captions below the header")
    ids = {name: told["id"][name] or PurePosixPath(name).stem for name in captions}
    numbers = _numbered(told["id"].values(), ids.values())
    return [
        CaptionedFile(_candidates(name), ids[name], numbers[ids[name]], tuple(own), told["split"][name])
        for name, own in captions.items()
    ]


def _numbered(given: Iterable[str], ids: Iterable[str]) -> Mapping[str, int]:
    """Id -> number: `given`, what column `id` holds, where all of it are whole numbers; else counted from 0."""
    if all(each.isascii() and each.isdigit() and len(each) <= _LONGEST_NUMBER for each in given):
        return {each: int(each) for each in ids}
    return {each: number for number, each in enumerate(dict.fromkeys(ids))}


def _csv_rows(path: Path, key: str) -> list[dict[str, str]]:
    expected = f"expected a csv file with {','.join(CSV_COLUMNS)}"
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""), skipinitialspace=True)
        header = reader.fieldnames or ()
        rows = list(reader)
    except OSError as error:
        raise UserError(f"{key}={path}: {expected}; it cannot be read ({error.strerror})") from error
    except (ValueError, csv.Error) as error:
        raise UserError(f"{key}={path}: {expected} ({first_line(error)})") from error
    if missing := [column for column in CSV_COLUMNS if column not in header]:
        found = ",".join(header) or "nothing"
        raise UserError(
            f"{key}={path}: {expected} in its header line, and perhaps id and split; "
            f"missing: {', '.join(missing)}; found: {found:.100}"
        )
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
