"""Saved features back from the disk, in whatever form they are."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from store.forms import NPZ, NUMPY, PICKLE, read_array
from store.hdf5 import read_items, saved_folder
from store.item_files import META, PREDICTIONS, same_bytes
from store.record import Record, read_record
from utils.errors import MediaError, UserError
from utils.types import Features, Item

_WHOLE = (NUMPY.name, NPZ.name, PICKLE.name)  # forms that hold all arrays, the quickest to read first


def find_saved(path: Path) -> list[Path]:
    """The meta files below a folder and its `.h5` files, or the one file given. UserError where there are none."""
    if path.is_file():
        return [path]
    found = sorted([*path.rglob(f"*{META}"), *path.rglob("*.h5")]) if path.is_dir() else []
    if not found:
        raise UserError(f"input_path={path}: expected a folder with saved features (*{META}, *.h5), found none there")
    return found


def read_saved(path: Path) -> Iterator[Features | MediaError]:
    """Every item of one of `find_saved`'s files; MediaError in place of one that is damaged."""
    if path.suffix == ".h5":
        folder = saved_folder(path)
        for found in read_items(path):
            if isinstance(found, MediaError):
                yield found
            else:
                record, arrays, predictions = found
                yield _features(record, folder, arrays, predictions)
        return
    try:
        yield _read_item(path)
    except MediaError as error:
        yield error


def _read_item(meta: Path) -> Features:
    record = read_record(meta)
    if record is None:
        raise MediaError(f"{meta}: damaged, or of another format")
    forms = {facts.get("form") for facts in record.files.values()}
    form = next((name for name in _WHOLE if name in forms), None)
    if form is None:
        raise MediaError(f"{meta}: holds none of the forms {', '.join(_WHOLE)}")
    arrays: dict[str, np.ndarray] = {}
    predictions: list[dict[str, Any]] = []
    for name, facts in record.files.items():
        if facts.get("form") == form:
            _check(meta.with_name(name), facts)
            key = name.removeprefix(Path(record.item).name + "_").rpartition(".")[0]
            arrays |= read_array(meta.with_name(name), {"key": key} | facts)  # version 0.1 recorded no keys
        elif name.endswith(PREDICTIONS):
            _check(meta.with_name(name), facts)
            predictions = json.loads(meta.with_name(name).read_bytes())
    home = Path(os.path.abspath(meta)).parents[record.item.count("/")]  # `.` and `..` have no name
    return _features(record, f"{home.parent.name}/{home.name}", arrays, predictions)


def _check(path: Path, facts: dict[str, Any]) -> None:
    if not same_bytes(path, facts):
        raise MediaError(f"{path}: not what its meta file says: damaged or missing; extract it again")


def _features(
    record: Record, folder: str, arrays: dict[str, np.ndarray], predictions: list[dict[str, Any]]
) -> Features:
    texts = tuple(record.provenance.get("texts", ()))
    item = Item(Path(record.source.get("path", record.item)), record.item, texts)
    provenance = record.provenance | {"source": record.source}
    return Features(item, folder, arrays, record.settings, provenance, predictions)
