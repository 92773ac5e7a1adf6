"""Saved features back from the disk, in whatever form they are."""

import hashlib
import json
import os
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from store.forms import Form, Gathers
from store.journal import JOURNAL, Journal
from store.record import META, PREDICTIONS, Record, features_of, read_record
from utils.errors import MediaError, UserError
from utils.plain_files import check_plain
from utils.types import Features


def find_saved(path: Path, forms: Sequence[Form]) -> list[Path]:
    """The meta files below a folder and files of whole folders (`.h5`), or the one file given. UserError for none."""
    if path.is_file():
        return [path]
    endings = [META, JOURNAL, *(form.gathered_ending for form in forms if isinstance(form, Gathers))]
    found = sorted({file for ending in endings for file in path.rglob(f"*{ending}")}) if path.is_dir() else []
    if not found:
        expected = ", ".join(f"*{ending}" for ending in endings)
        raise UserError(f"input_path={path}: expected a folder with saved features ({expected}), found none there")
    return found


def read_saved(path: Path, forms: Sequence[Form]) -> Iterator[Features | MediaError]:
    """Every item of one of `find_saved`'s files; MediaError in place of one that is damaged."""
    try:
        gathering = [form for form in forms if isinstance(form, Gathers) and path.name.endswith(form.gathered_ending)]
        if gathering:
            yield from gathering[0].items(path)
        elif path.name == JOURNAL:
            yield from _of_journal(path, forms)
        else:
            yield read_item(path, forms)
    except UserError as error:  # about this file, of which there may be many
        yield MediaError(str(error))


def _of_journal(path: Path, forms: Sequence[Form]) -> Iterator[Features | MediaError]:
    for item, folder, record in Journal(path).records():
        try:
            if record is None or not folder:
                raise MediaError(f"{path}: the line of {item[:200]!r} is damaged")
            yield _from_files(item_meta(path, record), record, folder, forms)
        except MediaError as error:
            yield error


def item_meta(journal: Path, record: Record) -> Path:
    """Where the meta file of an item would be that has a line in a journal instead: beside its files.

    MediaError for a name that leads elsewhere.
    """
    relative = Path(f"{record.item}{META}")
    if relative.is_absolute() or ".." in relative.parts or "\0" in record.item:
        raise MediaError(f"{journal}: {record.item[:200]!r} is no name of an item: forged")
    return journal.parent / relative


def read_item(meta: Path, forms: Sequence[Form]) -> Features:
    """From the first of `forms` that is there and intact. MediaError if there is none."""
    record = read_record(meta)
    if record is None:
        raise MediaError(f"{meta}: damaged, or of another format")
    if meta.name != Path(record.item).name + META:
        raise MediaError(f"{meta}: the record of another item, {record.item[:200]!r}: renamed, or forged")
    folders = Path(os.path.abspath(meta)).parents  # `.` and `..` have no name
    home = folders[min(record.item.count("/"), len(folders) - 1)]
    return _from_files(meta, record, f"{home.parent.name}/{home.name}", forms)


def _from_files(meta: Path, record: Record, folder: str, forms: Sequence[Form]) -> Features:
    """The item of a record whose files lie beside `meta`."""
    recorded = [str(facts.get("form")) for facts in record.files.values()]
    there = [form for form in forms if form.name in recorded]
    if not there:
        raise MediaError(f"{meta}: holds none of the forms {', '.join(form.name for form in forms)}")
    for form in there:
        path = meta
        try:
            arrays: dict[str, np.ndarray] = {}
            predictions: list[dict[str, Any]] = []
            for name, facts in record.files.items():
                path = meta.with_name(name)
                if facts.get("form") == form.name:
                    _check(path, facts)
                    key = name.removeprefix(Path(record.item).name + "_").rpartition(".")[0]
                    arrays |= form.read(path, {"key": key} | facts)  # version 0.1 recorded no keys
                elif name.endswith(PREDICTIONS):
                    _check(path, facts)
                    predictions = json.loads(path.read_bytes())
            return features_of(record, folder, arrays, predictions)
        except Exception as error:  # whatever comes out of a damaged file, or one that somebody forged
            if form is there[-1]:
                raise error if isinstance(error, MediaError) else MediaError(f"{path}: damaged ({error})") from error
    raise AssertionError("unreachable")


def intact(path: Path, facts: dict[str, Any]) -> bool:
    """Whether a file is the recorded one, byte by byte. False on any damage.

    Of a `.npy` file size, shape and dtype: the values stay on the disk, so that 100,000 items are checked quickly.
    Nothing else is opened: opening a pickle runs whatever is in it.
    """
    try:
        if check_plain(path).st_size != facts.get("bytes"):
            return False
        if path.suffix == ".npy":
            array = np.lib.format.open_memmap(path, mode="r")
            fills = array.offset + array.nbytes == facts.get("bytes")  # else a damaged header shifts all values
            return fills and list(array.shape) == facts.get("shape") and str(array.dtype) == facts.get("dtype")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == facts.get("sha256")
    except (OSError, ValueError, TypeError, SyntaxError, OverflowError, tokenize.TokenError):
        return False  # all of these come out of damaged headers


def _check(path: Path, facts: dict[str, Any]) -> None:
    if not intact(path, facts):
        raise MediaError(f"{path}: not what its meta file says: damaged or missing; extract it again")
