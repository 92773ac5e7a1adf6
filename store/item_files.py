"""The files of one item in one form (.npy, .npz ...): written whole, recognised when they are already there."""

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from store.atomic import atomic_write, remove
from store.plain_json import encode, plain
from store.provenance import item_source
from store.record import (
    Record,
    other_file,
    read_record,
    same_facts,
    write_record,
)
from store.resume import UpToDate
from utils.errors import MediaError, UserError
from utils.types import Features, Item

logger = logging.getLogger(__name__)

META, PREDICTIONS = "_meta.json", "_predictions.json"


class Writable(Protocol):
    def write(self, data: Any, /) -> Any: ...


@dataclass(frozen=True)
class Content:
    """What goes into one file, and what is known of it before it is written."""

    write: Callable[[Writable], None]
    facts: dict[str, Any] = field(default_factory=dict)  # for the record


@dataclass(frozen=True)
class Form:
    """One way to store features: `files` gives their contents by the ending of the file's name (`_clip.npy`)."""

    name: str  # stands in the record of each of its files
    files: Callable[[Features], dict[str, Content]]
    intact: Callable[[Path, dict[str, Any]], bool]  # does the file match its record? Never raises on damage


class ItemFiles:
    """`<output_path>/<folder>/<item.name><ending>`: the files of a form, then `_predictions.json`, last `_meta.json`.

    Several forms share a folder and one meta file, which lists the files of each with shape and dtype.
    """

    def __init__(self, output_path: Path | str, form: Form) -> None:
        self._output_path = Path(output_path)
        self._form = form
        self._up_to_date = UpToDate()

    def done(self, item: Item, folder: str, settings: dict[str, Any]) -> bool:
        """Nothing left to do: same settings, same source (size and time) and every file of this form intact."""
        record = read_record(self._path(folder, item, META))
        if record is None:
            return False
        if not self._up_to_date(record, item, settings):
            return False
        mine = {name: facts for name, facts in record.files.items() if facts.get("form") == self._form.name}
        home = self._path(folder, item, "").parent
        damaged = [name for name, facts in mine.items() if not self._form.intact(home / name, facts)]
        damaged += [n for n, f in record.files.items() if n.endswith(PREDICTIONS) and not same_bytes(home / n, f)]
        if mine and damaged:
            logger.warning("%s: missing or damaged, done again: %s", item.path, ", ".join(damaged))
        return bool(mine) and not damaged

    def save(self, features: Features) -> None:
        """Raises MediaError where there is nothing worth saving, UserError where it cannot be written."""
        check_usable(features)
        item, folder = features.item, features.folder
        meta = self._path(folder, item, META)
        contents = {self._path(folder, item, end): content for end, content in self._form.files(features).items()}
        for path in contents:
            _refuse_shared_name(path, meta)
        provenance = dict(features.provenance)
        # Facts taken before the file was read are better: it may have changed while it was being read.
        source = provenance.pop("source", None) or item_source(item)
        record = Record(item.name, plain(features.settings), plain(source), {}, plain(provenance))
        files = _keep_or_clear(meta, record, self._form)
        for path, content in contents.items():
            files[path.name] = {"form": self._form.name} | _write(path, content)
        if features.predictions:
            path = self._path(folder, item, PREDICTIONS)
            files[path.name] = _write(path, _predictions(features))
        write_record(meta, Record(record.item, record.settings, record.source, files, record.provenance))

    def _path(self, folder: str, item: Item, ending: str) -> Path:
        """Names come from input paths; whatever they hold, results stay below `output_path`."""
        relative = Path(folder) / f"{item.name}{ending}"
        if relative.is_absolute() or ".." in relative.parts:
            raise UserError(f"{item.path}: its results would lie outside {self._output_path}: {relative}")
        return self._output_path / relative


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


def _write(path: Path, content: Content) -> dict[str, Any]:
    with _hashed(path) as file:
        content.write(file)
    return content.facts | file.facts()


def _predictions(features: Features) -> Content:
    try:
        text = encode(features.predictions, indent=1) + b"\n"
    except ValueError as error:
        raise MediaError(f"{features.item.path}: a prediction is nan or infinite: not saved") from error
    return Content(lambda file: file.write(text))


def _keep_or_clear(meta: Path, record: Record, form: Form) -> dict[str, dict[str, Any]]:
    """The recorded files of the other forms, if they stay valid; else the old results are taken away.

    The meta file goes first: killed half-way, new arrays must not lie beside a record of the old settings. Raises
    MediaError where they are of another input.
    """
    old = read_record(meta)
    if old is not None and (other := other_file(old.source, record.source)):
        raise MediaError(
            f"{record.source['path']}: {meta.parent} already holds results of {other} under the name {record.item!r}: "
            "rename one of the two, or choose another output_path"
        )
    if old is not None and old.settings == record.settings and same_facts(old.source, record.source):
        return {name: facts for name, facts in old.files.items() if facts.get("form") not in (None, form.name)}
    remove(meta)
    start = meta.name.removesuffix(META)
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
        other = path.with_name("_".join(pieces[:count]) + META)
        if other == meta:
            continue
        record = read_record(other)
        if record is not None and path.name in record.files:
            raise MediaError(f"{path}: already holds results of the item {record.item!r}: rename one of the two inputs")
