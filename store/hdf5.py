"""`on_extraction=save_hdf5`: all items of a folder in one file, for those who don't want a million small ones."""

import errno
import hashlib
import json
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any, BinaryIO

import numpy as np

from store.files import atomic_write, encode
from store.forms import NewFile, array_facts
from store.parts import slices
from store.record import Record, features_of, parse_record, record_bytes, record_of
from utils.errors import MediaError, UserError, first_line
from utils.plain_files import check_plain
from utils.types import Features

FOLDER = "folder"  # attribute of the file: `Features.folder`, whatever the file is called later
RECORD = "record"  # attribute of an item's group: settings, source, provenance and shapes, as JSON
PREDICTIONS = "predictions"
_LIBVER = ("v110", "v110")  # attributes of any size, which records of many texts need
_FACTS = ("shape", "dtype")
_MOST_PACKED = 1100  # times: zeros that gzip packed
_SYSTEM = (errno.EIO, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)
_DAMAGE = (  # what h5py answers to it
    *(OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError, MemoryError, RecursionError),
)


class SaveHdf5:
    """`<output_path>/<folder>.h5`: a group for each item with a dataset for each array, readable with plain h5py.

    During a run, an item has a small file of its own, `<item>.own.hdf5`. When the run ends, a new `.h5` is written with
    what the old one holds and all of these, and takes its place as a whole; only then they go (`store.gathering`).
    """

    name, ending, gathered_ending = "hdf5", ".own.hdf5", ".h5"

    def __init__(self) -> None:
        self._state: tuple[Path, int, int, int] | None = None
        self._file: Any = None
        self._close: Callable[[], Any] = lambda: None
        self._lock = RLock()

    def write(self, features: Features) -> Iterator[NewFile]:
        arrays = features.arrays

        def write(file: BinaryIO) -> None:
            import h5py  # late: only those who want this form need it

            with _on_disk(file) as disk, h5py.File(disk, "w", libver=_LIBVER) as own:
                for key, array in arrays.items():
                    _write_array(own, key, array)

        facts = {key: array_facts(array) for key, array in arrays.items()}
        yield NewFile(self.ending, write, {"arrays": facts}, seeks=True)

    def read(self, path: Path, facts: dict[str, Any]) -> dict[str, np.ndarray]:
        import h5py

        with h5py.File(path, "r") as own:
            return {key: _mapped(path, _dataset(own, key, inside)) for key, inside in facts["arrays"].items()}

    def record(self, archive: Path, name: str) -> Record | None:
        """What the folder's file says of an item; None where it does not hold it. UserError if it is no HDF5 file."""
        with self._opened(archive) as file:
            return None if file is None else _record_of(file.get(group_name(name)))

    def records(self, archive: Path, *, most: int) -> list[Record]:
        """The first that the folder's file holds. UserError if it is no HDF5 file."""
        found: list[Record] = []

        def take(_: str, node: Any) -> bool | None:
            if (record := _record_of(node)) is not None:
                found.append(record)
            return len(found) >= most or None  # anything but None ends the visit

        with self._opened(archive) as file, suppress(*_DAMAGE):
            if file is not None:
                file.visititems(take)
        return found

    def intact(self, archive: Path, record: Record) -> bool:
        """Whether the item's arrays in the folder's file are what their record says."""
        with self._opened(archive) as file, suppress(*_DAMAGE):
            _checked(file[group_name(record.item)])
            return True
        return False

    def items(self, archive: Path) -> Iterator[Features | MediaError]:
        """Every item in the file, in the order of their names; MediaError in place of one that is damaged."""
        names: list[str] = []
        with self._opened(archive) as file:
            if file is None:
                return
            try:
                folder = _folder(file, archive)
                file.visititems(lambda name, node: names.append(name) if RECORD in node.attrs else None)
            except _DAMAGE as error:
                raise UserError(f"{archive}: damaged ({error}): extract its items again") from error
        for name in names:
            try:
                with self._opened(archive) as file:
                    record, arrays, predictions = _read_group(file[name])
                found = features_of(record, folder, arrays, predictions)
            except _DAMAGE as error:
                found = MediaError(f"{archive}: {name} is damaged ({error}): extract it again")
            yield found

    def gather(
        self, archive: Path, folder: str, items: Iterable[tuple[str, Features | MediaError]]
    ) -> dict[str, MediaError]:
        """A new file with `items`, and what the old one holds beside them. See `Gathers`; the old one stays if not."""
        import h5py

        problems: dict[str, MediaError] = {}
        opened, whole = self._opened(archive), atomic_write(archive)
        with opened as old, whole as raw, _on_disk(raw) as disk, h5py.File(disk, "w", libver=_LIBVER) as new:
            new.attrs[FOLDER] = folder
            added: set[str] = set()
            for name, found in items:
                problem = found if isinstance(found, MediaError) else _add(new, old, found)
                if problem is None:
                    added.add(group_name(name))
                else:
                    problems[name] = problem
            if old is not None:
                _carry_over(old, new, added, archive)
        self._close()
        self._state = None
        return problems

    @contextmanager
    def _opened(self, archive: Path) -> Iterator[Any]:
        """The file, None where there is none. Kept open while it is the same: a run over 100,000 items opens it once.

        It is never changed in place, so that what is open stays whole until it is closed.
        """
        import h5py

        with self._lock:
            try:
                stat = check_plain(archive)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    raise _unreadable(archive, error) from error
                yield None
                return
            state = archive, stat.st_ino, stat.st_size, stat.st_mtime_ns
            if state != self._state:
                self._close()
                self._file = self._state = raw = None
                try:
                    # Through Python: by its path, HDF5 would mix it up with other openings in this process.
                    raw = archive.open("rb")
                    self._file = h5py.File(raw, "r")
                except OSError as error:
                    if raw is not None:
                        raw.close()
                    raise _unreadable(archive, error) from error
                self._close = weakref.finalize(self, _close, self._file, raw)  # at the end of the program at the latest
                self._state = state
            yield self._file


def _unreadable(archive: Path, error: OSError) -> UserError:
    """What stands in the way may be moved, but not a whole file that the system does not give out today."""
    if error.errno in _SYSTEM:
        return UserError(f"{archive}: cannot be read now ({error.strerror}): mend that, and run the same command again")
    return UserError(f"{archive}: no HDF5 file, or damaged ({error.strerror or first_line(error)}): move it away")


def _close(file: Any, raw: Any) -> None:
    file.close()
    raw.close()


class _Disk:
    """A file for HDF5, which cannot close what it cannot write: after an error nothing more is written, and who made
    this raises `error` in the end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None
        self.read, self.seek, self.tell = file.read, file.seek, file.tell
        self.readinto = file.readinto  # pyright: ignore[reportAttributeAccessIssue]

    def write(self, data: memoryview) -> int:
        return self._unless_failed(self._file.write, data)

    def truncate(self, size: int) -> int:
        return self._unless_failed(self._file.truncate, size)

    def flush(self) -> None:
        self._unless_failed(self._file.flush)

    def _unless_failed(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments) if self.error is None else 0
        except OSError as error:
            self.error = error
            return 0


@contextmanager
def _on_disk(file: BinaryIO) -> Iterator[_Disk]:
    """Whatever HDF5 made of it, the disk's own error comes out."""
    disk = _Disk(file)
    try:
        yield disk
    except Exception:
        if disk.error is None:
            raise
    if disk.error is not None:
        raise disk.error


def _write_array(group: Any, key: str, array: np.ndarray) -> None:
    """Piece by piece: it may be mapped from the disk (`store.parts`)."""
    if not array.ndim or not array.size:
        group.create_dataset(key, data=array)
        return
    dataset, at = group.create_dataset(key, array.shape, array.dtype), 0
    for rows in slices(array):
        dataset[at : at + len(rows)] = rows
        at += len(rows)


def _add(new: Any, old: Any, features: Features) -> MediaError | None:
    """The problem where a name is taken by another item or its array."""
    name, path = group_name(features.item.name), features.item.path
    parts = name.split("/")
    for file in (new, old) if old is not None else (new,):
        if any(hasattr(file.get("/".join(parts[:count])), "shape") for count in range(1, len(parts) + 1)):
            return MediaError(f"{path}: the name {name!r} is taken by another item's array: rename the file")
        for key in features.arrays:
            if hasattr(file.get(f"{name}/{key}"), "keys"):
                return MediaError(f"{path}: the name {name}/{key} is taken by another item: rename one of the two")
    group = new.require_group(name)
    for key, array in features.arrays.items():
        _write_array(group, key, array)
    if features.predictions:
        group.attrs[PREDICTIONS] = encode(features.predictions).decode()
    files = {key: _facts(array) for key, array in features.arrays.items()}
    group.attrs[RECORD] = record_bytes(record_of(features, files)).decode()
    return None


def _carry_over(old: Any, new: Any, added: set[str], archive: Path) -> None:
    """All that `old` holds, but for the records and arrays of items that were `added`: they cost no space.

    Raises UserError if it is damaged.
    """
    records = {name: _record_of(old.get(name)) for name in added}
    gone = {f"{name}/{key}" for name, record in records.items() if record for key in record.files}

    def copy(name: str, node: Any) -> None:
        if hasattr(node, "shape"):
            if name not in gone and name not in new:
                old.copy(node, new, name)
            return
        group = new.require_group(name)
        for key, value in node.attrs.items():
            if name not in added or key not in (RECORD, PREDICTIONS):
                group.attrs[key] = value

    try:
        for key, value in old.attrs.items():
            new.attrs.setdefault(key, value)
        old.visititems(copy)
    except _DAMAGE as error:
        raise UserError(f"{archive}: damaged ({error}): move it away") from error


def _read_group(group: Any) -> tuple[Record, dict[str, np.ndarray], list[dict[str, Any]]]:
    """An item, its predictions last. Raises one of _DAMAGE."""
    record = _checked(group)
    arrays = {key: np.asarray(group[key][()]) for key in record.files}
    return record, arrays, json.loads(group.attrs[PREDICTIONS]) if PREDICTIONS in group.attrs else []


def _checked(group: Any) -> Record:
    """Its record, if the arrays are what it says. Raises one of _DAMAGE."""
    record = _record_of(group)
    if record is None:
        raise ValueError("its record cannot be read")
    for key, facts in record.files.items():
        if _facts(_dataset(group, key, facts)) != facts:
            raise ValueError(f"{key} is not what its record says")
    return record


def _mapped(path: Path, dataset: Any) -> np.ndarray:
    """The values of a dataset, not in memory where they lie in one piece in the file."""
    offset = dataset.id.get_offset() if dataset.ndim and dataset.size else None
    if offset is None:
        return np.asarray(dataset[()])
    return np.asarray(np.memmap(path, dataset.dtype, "r", offset, dataset.shape))


def _dataset(group: Any, key: str, facts: dict[str, Any]) -> Any:
    """ValueError, before anything is read, for what is not as `facts` say, lies in another file, or is a bomb."""
    import h5py

    if not isinstance(group.get(key, getlink=True), h5py.HardLink) or not isinstance(group[key], h5py.Dataset):
        raise ValueError(f"{key} is no array of this file")
    stored = group[key]
    if stored.external or stored.is_virtual:
        raise ValueError(f"{key} lies in another file")
    if {"shape": list(stored.shape or ()), "dtype": str(stored.dtype)} != {name: facts.get(name) for name in _FACTS}:
        raise ValueError(f"{key} is not what its record says")
    if stored.nbytes > _MOST_PACKED * stored.id.get_storage_size():
        raise ValueError(f"{key} would be {stored.nbytes:,} bytes, more than can lie in this file")
    return stored


def _folder(file: Any, archive: Path) -> str:
    """`Features.folder` as it is noted; that of the file's own place where nothing is, or no folder."""
    noted = file.attrs.get(FOLDER)
    inside = isinstance(noted, str) and not Path(noted).is_absolute() and ".." not in Path(noted).parts
    if inside and "\0" not in noted and 0 < len(os.fsencode(noted)) < 256:
        return noted
    absolute = Path(os.path.abspath(archive))  # `T.h5` and `../T.h5` have no parent with a name
    return f"{absolute.parent.name}/{absolute.stem}"


def _record_of(group: Any) -> Record | None:
    text = None if group is None else group.attrs.get(RECORD)
    return parse_record(text) if isinstance(text, str | bytes) else None


def _facts(array: np.ndarray) -> dict[str, Any]:
    checksum = hashlib.sha256()
    for rows in slices(array):
        checksum.update(np.ascontiguousarray(rows).data)
    return {**array_facts(array), "sha256": checksum.hexdigest()}


def group_name(name: str) -> str:
    """Names of files need not be valid UTF-8, those of groups have to: the bytes that are not are written out."""
    return name.encode("utf-8", "backslashreplace").decode()
