"""The files of one item in one form (.npy, .pkl): written whole, recognised when they are already there."""

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from utils.errors import MediaError, UserError
from utils.store.atomic import atomic_write, remove
from utils.store.plain_json import encode, plain
from utils.store.provenance import source_facts
from utils.store.record import Record, read_record, same_facts, same_source, setting_changes, write_record
from utils.types import Features, Item

logger = logging.getLogger(__name__)


class Writable(Protocol):
    def write(self, data: Any, /) -> Any: ...


@dataclass(frozen=True)
class Form:
    """One way to store an array."""

    suffix: str  # ".npy"
    write: Callable[[Writable, np.ndarray], None]
    intact: Callable[[Path, dict[str, Any]], bool]  # does the file match its record? Never raises on damage


class ItemFiles:
    """`<output_path>/<folder>/<item.name>_<key><suffix>`, then `_predictions.json`, last `_meta.json`.

    Several forms share a folder and one meta file, which lists the files of each with shape and dtype.
    """

    def __init__(self, output_path: Path | str, form: Form) -> None:
        self._output_path = Path(output_path)
        self._form = form
        self._warned: set[str] = set()

    def done(self, item: Item, folder: str, settings: dict[str, Any]) -> bool:
        """Nothing left to do: same settings, same source (size and time) and every file of this form intact."""
        record = read_record(self._path(folder, item, "meta.json"))
        if record is None:
            return False
        wanted = plain(settings)
        # Settings recorded beyond today's (predictions that nobody asks for now) do no harm.
        recorded = {key: value for key, value in record.settings.items() if key in wanted}
        if recorded != wanted:
            self._warn_changed(item, setting_changes(recorded, wanted))
            return False
        if not same_source(record.source, item.path):
            logger.warning("%s: has changed since its results were saved: done again", item.path)
            return False
        mine = {name: facts for name, facts in record.files.items() if name.endswith(self._form.suffix)}
        home = self._path(folder, item, "").parent
        damaged = [name for name, facts in mine.items() if not self._form.intact(home / name, facts)]
        damaged += [n for n, f in record.files.items() if n.endswith(".json") and not same_bytes(home / n, f)]
        if mine and damaged:
            logger.warning("%s: missing or damaged, done again: %s", item.path, ", ".join(damaged))
        return bool(mine) and not damaged

    def save(self, features: Features) -> None:
        """Raises MediaError where there is nothing worth saving, UserError where it cannot be written."""
        check_usable(features)
        item, folder = features.item, features.folder
        meta = self._path(folder, item, "meta.json")
        paths = {key: self._path(folder, item, f"{key}{self._form.suffix}") for key in features.arrays}
        for path in paths.values():
            _refuse_shared_name(path, meta)
        provenance = dict(features.provenance)
        # Facts taken before the file was read are better: it may have changed while it was being read.
        source = provenance.pop("source", None) or source_facts(item.path)
        record = Record(item.name, plain(features.settings), plain(source), {}, plain(provenance))
        files = _keep_or_clear(meta, record, self._form.suffix)
        for key, array in features.arrays.items():
            files[paths[key].name] = self._write(paths[key], array)
        if features.predictions:
            path = self._path(folder, item, "predictions.json")
            files[path.name] = _write_predictions(path, features)
        write_record(meta, Record(record.item, record.settings, record.source, files, record.provenance))

    def _path(self, folder: str, item: Item, ending: str) -> Path:
        """Names come from input paths; whatever they hold, results stay below `output_path`."""
        relative = Path(folder) / f"{item.name}_{ending}"
        if relative.is_absolute() or ".." in relative.parts:
            raise UserError(f"{item.path}: its results would lie outside {self._output_path}: {relative}")
        return self._output_path / relative

    def _write(self, path: Path, array: np.ndarray) -> dict[str, Any]:
        with _hashed(path) as file:
            self._form.write(file, array)
        return {"shape": list(array.shape), "dtype": str(array.dtype)} | file.facts()

    def _warn_changed(self, item: Item, changes: str) -> None:
        # Once for each kind of change: ten thousand items with the same one would hide everything else.
        if changes not in self._warned:
            self._warned.add(changes)
            logger.warning(
                "%s: saved under other settings (%s): done again, as is every other item with this difference",
                item.path,
                changes,
            )


def check_usable(features: Features) -> None:
    """Raises MediaError for results that must never pass for a success: no arrays, no rows, nan or infinite."""
    path = features.item.path
    if not features.arrays:
        raise MediaError(f"{path}: no features came out of it: nothing is saved")
    for key, array in features.arrays.items():
        if array.size == 0:
            raise MediaError(f"{path}: {key!r} is empty (shape {array.shape}): nothing is saved")
        if array.dtype.hasobject:
            raise ValueError(f"{path}: {key!r} is an array of Python objects, which cannot be read back safely")
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            bad = np.argwhere(~np.isfinite(array))
            row = f", first in row {bad[0][0]}" if array.ndim else ""
            raise MediaError(
                f"{path}: {key!r} holds {len(bad)} of {array.size} values that are nan or infinite{row}: "
                "nothing is saved; try precision=fp32"
            )


def same_bytes(path: Path, facts: dict[str, Any]) -> bool:
    """Whether the file is byte by byte the recorded one. False on any damage."""
    try:
        if path.stat().st_size != facts.get("bytes"):
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == facts.get("sha256")
    except OSError:
        return False


class _HashedFile:
    """Passes bytes on and counts and hashes them: no second pass over the file, no copy in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._bytes = 0

    def write(self, data: Any, /) -> int:
        self._hash.update(data)
        self._bytes += memoryview(data).nbytes
        return self._file.write(data)

    def facts(self) -> dict[str, Any]:
        return {"bytes": self._bytes, "sha256": self._hash.hexdigest()}


@contextmanager
def _hashed(path: Path) -> Iterator[_HashedFile]:
    with atomic_write(path) as file:
        yield _HashedFile(file)


def _write_predictions(path: Path, features: Features) -> dict[str, Any]:
    try:
        content = encode(features.predictions, indent=1)
    except ValueError as error:
        raise MediaError(f"{features.item.path}: a prediction is nan or infinite: not saved") from error
    with _hashed(path) as file:
        file.write(content + b"\n")
    return file.facts()


def _keep_or_clear(meta: Path, record: Record, suffix: str) -> dict[str, dict[str, Any]]:
    """The recorded files of the other forms, if they stay valid; else the old results are taken away.

    The meta file goes first: killed half-way, new arrays must not lie beside a record of the old settings.
    """
    old = read_record(meta)
    if old is not None and old.settings == record.settings and same_facts(old.source, record.source):
        return {name: facts for name, facts in old.files.items() if not name.endswith((suffix, ".json"))}
    remove(meta)
    start = meta.name.removesuffix("meta.json")
    for name in old.files if old is not None else ():
        if name.startswith(start) and Path(name).name == name:
            remove(meta.with_name(name))
    return {}


def _refuse_shared_name(path: Path, meta: Path) -> None:
    """`dog` + `source_fps` and `dog_source` + `fps` are the same file name: refused, never overwritten.

    Raises MediaError if `path` is on the record of another item.
    """
    pieces = path.name.split("_")
    for count in range(1, len(pieces)):
        other = path.with_name("_".join(pieces[:count]) + "_meta.json")
        if other == meta:
            continue
        record = read_record(other)
        if record is not None and path.name in record.files:
            raise MediaError(f"{path}: already holds results of the item {record.item!r}: rename one of the two inputs")
