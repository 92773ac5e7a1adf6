"""`on_extraction=save_hdf5`: all items of a folder in one file, for those who don't want a million small ones."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock

from store.atomic import storage_error
from store.item_files import check_usable
from store.journal import Overlay, commit, recover
from store.plain_json import encode, plain
from store.provenance import item_source
from store.record import Record, other_file, parse_record, record_bytes
from store.resume import UpToDate
from utils.errors import MediaError, UserError
from utils.types import Features, Item

FOLDER = "folder"  # attribute of the file: `Features.folder`, whatever the file is called later
RECORD = "record"  # attribute of an item's group: settings, source, provenance and shapes, as JSON
PREDICTIONS = "predictions"
SavedItem = tuple[Record, dict[str, np.ndarray], list[dict[str, Any]]]  # the predictions last


class SaveHdf5:
    """`<output_path>/<folder>.h5`: a group for each item with a dataset for each array, readable with plain h5py.

    Every item is appended as a whole, under a lock, so that several processes may share the file and a kill at any
    moment costs none of the earlier items (`store.journal`). The place of an item that is done again under other
    settings is not reused: `h5repack` shrinks a file with many of those.
    """

    saves = True

    def __init__(self, output_path: Path | str) -> None:
        self._output_path = Path(output_path)
        self._up_to_date = UpToDate()
        self._readers: dict[Path, _Reader] = {}

    def done(self, item: Item, folder: str, settings: dict[str, Any]) -> bool:
        path = self._path(folder)
        if not path.exists():
            return False
        reader = self._readers.setdefault(path, _Reader(path))
        with _locked(path, reading=True):
            group = reader.file().get(_group_name(item.name))
            record = _record_of(group)
            if group is None or record is None or not self._up_to_date(record, item, settings):
                return False
            return all(_intact(group, key, facts) for key, facts in record.files.items())

    def __call__(self, features: Features) -> None:
        """Raises MediaError where there is nothing worth saving, UserError where it cannot be written."""
        check_usable(features)
        provenance = dict(features.provenance)
        source = plain(provenance.pop("source", None) or item_source(features.item))
        files = {key: _facts(array) for key, array in features.arrays.items()}
        record = Record(features.item.name, plain(features.settings), source, files, plain(provenance))
        with _locked(path := self._path(features.folder)):
            _append(path, features, record)

    def _path(self, folder: str) -> Path:
        relative = Path(f"{folder}.h5")
        if relative.is_absolute() or ".." in relative.parts:
            raise UserError(f"{folder}: these results would lie outside {self._output_path}")
        return self._output_path / relative


class _Reader:
    """The file, kept open while nobody changes it: a run over 100,000 finished items opens it once.

    Opened through Python: by its path, HDF5 would share what it remembers with every other opening in this process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state: tuple[int, int, int] | None = None
        self._raw: BinaryIO | None = None
        self._file: Any = None

    def file(self) -> Any:
        """To be used under the lock. Raises UserError where there is no HDF5 file."""
        import h5py  # late: only those who want this form need it

        stat = self._path.stat()
        state = stat.st_ino, stat.st_size, stat.st_mtime_ns
        if state != self._state:
            self.close()
            self._raw = self._path.open("rb")
            try:
                self._file = h5py.File(self._raw, "r")
            except OSError as error:
                self.close()
                raise UserError(f"{self._path}: no HDF5 file, or damaged ({error}): move it away") from error
            self._state = state
        return self._file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._raw is not None:
            self._raw.close()
        self._state = self._raw = self._file = None

    def __del__(self) -> None:
        self.close()


def read_items(path: Path) -> Iterator[SavedItem | MediaError]:
    """Every item in the file, in the order of their names; MediaError in place of one that is damaged.

    The lock is held for one item at a time, so that the caller may append to the same file.
    """
    reader = _Reader(path)
    try:
        names: list[str] = []
        with _locked(path, reading=True):
            reader.file().visititems(lambda name, node: names.append(name) if RECORD in node.attrs else None)
        for name in names:
            with _locked(path, reading=True):
                try:
                    found = _read_item(reader.file()[_group_name(name)])
                except (OSError, KeyError, TypeError, ValueError) as error:
                    found = MediaError(f"{path}: {name} is damaged ({error}): extract it again")
            yield found
    finally:
        reader.close()


def _read_item(group: Any) -> SavedItem:
    """Raises ValueError, or what h5py raises, for a damaged one."""
    record = _record_of(group)
    if record is None:
        raise ValueError("its record cannot be read")
    arrays = {key: np.asarray(group[key][()]) for key in record.files}
    for key, array in arrays.items():
        if _facts(array) != record.files[key]:
            raise ValueError(f"{key} is not what its record says")
    predictions = json.loads(group.attrs[PREDICTIONS]) if PREDICTIONS in group.attrs else []
    return record, arrays, predictions


def saved_folder(path: Path) -> str:
    """`Features.folder` of everything in the file; by its own name and folder where it does not say."""
    reader = _Reader(path)
    try:
        with _locked(path, reading=True):
            recorded = reader.file().attrs.get(FOLDER)
    finally:
        reader.close()
    if recorded is not None:
        return str(recorded)
    path = Path(os.path.abspath(path))  # `T.h5` and `../T.h5` have no parent with a name
    return f"{path.parent.name}/{path.stem}"


def _append(path: Path, features: Features, record: Record) -> None:
    import h5py

    with path.open("rb") if path.exists() else _nothing() as base:
        overlay = Overlay(base)
        # Version 1.10's format: attributes of any size, which records of many texts need.
        with h5py.File(overlay, "r+" if overlay.old_size else "w", libver=("v110", "v110")) as file:
            file.attrs.setdefault(FOLDER, features.folder)
            group = _emptied(file, features, record)
            for key, array in features.arrays.items():
                group.create_dataset(key, data=array)
            if features.predictions:
                group.attrs[PREDICTIONS] = encode(features.predictions).decode()
            group.attrs[RECORD] = record_bytes(record).decode()
        commit(overlay, path)


def _emptied(file: Any, features: Features, record: Record) -> Any:
    """The item's group, without what an earlier run put there. Items below it (`a/b` below `a`) stay."""
    name, path = features.item.name, features.item.path
    try:
        group = file.require_group(_group_name(name))
    except (TypeError, ValueError) as error:  # `a/clip`, where `a` has a dataset `clip`
        raise MediaError(f"{path}: the name {name!r} is taken by another item's array: rename the file") from error
    old = _record_of(group)
    if old is not None and (other := other_file(old.source, record.source)):
        raise MediaError(
            f"{path}: the file already holds results of {other} under the name {name!r}: rename one of the two, or "
            "choose another output_path"
        )
    for key in [*(old.files if old else ()), *features.arrays]:
        if key in group:
            if not hasattr(group[key], "shape"):
                raise MediaError(f"{path}: the name {name}/{key} is taken by another item: rename one of the two")
            del group[key]
    for key in (RECORD, PREDICTIONS):
        group.attrs.pop(key, None)
    return group


def _record_of(group: Any) -> Record | None:
    text = None if group is None else group.attrs.get(RECORD)
    return None if text is None else parse_record(text)


def _intact(group: Any, key: str, facts: dict[str, Any]) -> bool:
    try:
        return _facts(np.asarray(group[key][()])) == facts
    except (OSError, KeyError, TypeError, ValueError):  # what h5py answers to damage
        return False


def _facts(array: np.ndarray) -> dict[str, Any]:
    checksum = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": checksum}


def _group_name(name: str) -> str:
    """Names of files need not be valid UTF-8, those of groups have to: the bytes that are not are written out."""
    return name.encode("utf-8", "backslashreplace").decode()


@contextmanager
def _locked(path: Path, *, reading: bool = False) -> Iterator[None]:
    """One process at a time; the first to come after a kill finishes what was begun.

    Who may only read a folder goes without the lock: nobody can write there, unless as another user.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        if not reading:
            path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        if reading and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            recover(path)  # a journal that cannot be applied is no state to read: UserError
            yield
            return
        raise storage_error(path, error) from error
    try:
        recover(path)
        yield
    finally:
        lock.release()


@contextmanager
def _nothing() -> Iterator[None]:
    yield None
