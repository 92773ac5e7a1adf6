"""`<item>_meta.json`: what was saved, from which source, under which settings. Written last: present = complete."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from store.files import atomic_write, encode, plain
from utils.errors import MediaError
from utils.plain_files import check_plain, read_plain
from utils.types import Features, Item, Source

META, PREDICTIONS = "_meta.json", "_predictions.json"
_FORMAT = 1
_MOST_BYTES = 1 << 28  # of a meta file: of a million texts it has a tenth of that


@dataclass(frozen=True)
class Record:
    """The content of one meta file; all values are plain JSON."""

    item: str
    settings: dict[str, Any]
    source: Source  # as it was when it was read
    files: dict[str, dict[str, Any]]  # name in the same folder -> {"form", "shape", "dtype", "bytes", "sha256" ...}
    provenance: dict[str, Any] = field(default_factory=dict)


def read_record(path: Path) -> Record | None:
    """The record in `path`; None where there is none that can be used (absent, damaged, of another format)."""
    try:
        return parse_record(read_plain(path, most_bytes=_MOST_BYTES))
    except OSError:
        return None


def parse_record(data: bytes | str) -> Record | None:
    """None for anything that is none, of whatever type: attributes of HDF5 files may have any."""
    try:
        content = json.loads(data)
        if content["format"] != _FORMAT:
            return None
        source = Source(**content["source"])
        record = Record(source=source, **{key: content[key] for key in ("item", "settings", "files", "provenance")})
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    dicts = [record.settings, record.files, record.provenance]
    dicts += record.files.values() if isinstance(record.files, dict) else []
    if not all(isinstance(each, dict) for each in dicts) or not isinstance(record.item, str):
        return None
    texts = [*record.files, source.path, *(facts.get("form", "") for facts in record.files.values())]
    numbers = (source.size_bytes, source.mtime)
    if not all(value is None or isinstance(value, int | float) for value in numbers):
        return None
    # Files lie beside the record, whatever somebody wrote into it.
    return record if all(isinstance(each, str) for each in texts) and "/" not in "".join(record.files) else None


def write_record(path: Path, record: Record) -> None:
    """Raises UserError if it cannot be written."""
    with atomic_write(path) as file:
        file.write(record_bytes(record) + b"\n")


def record_bytes(record: Record) -> bytes:
    saved = datetime.now(UTC).isoformat(timespec="seconds")
    source = {key: value for key, value in asdict(record.source).items() if value is not None}
    return encode({"format": _FORMAT, "saved": saved} | vars(record) | {"source": source}, indent=2)


def record_of(features: Features, files: dict[str, dict[str, Any]]) -> Record:
    provenance = {**features.provenance, "damage": list(features.damage), "warnings": list(features.warnings)}
    source = features.source or item_source(features.item)
    return Record(features.item.name, plain(features.settings), source, files, plain(provenance))


def features_of(
    record: Record, folder: str, arrays: dict[str, np.ndarray], predictions: list[dict[str, Any]]
) -> Features:
    """Raises ValueError or TypeError for a record that `record_of` did not make."""
    name, provenance = record.item, dict(record.provenance)
    if not Path(name).name or Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise ValueError(f"{name[:200]!r} is no name of an item")
    if "\0" in record.source.path or not all(isinstance(key, str) for key in arrays):
        raise ValueError("its source or its arrays have names that none can have")
    if not isinstance(predictions, list) or not all(isinstance(row, dict) for row in predictions):
        raise ValueError("its predictions are none")
    damage, warnings = (tuple(map(str, provenance.pop(key, ()))) for key in ("damage", "warnings"))
    item = Item(Path(record.source.path), name, tuple(map(str, provenance.get("texts", ()))))
    settings = plain(record.settings)  # with a nan in it, it would look changed on every run
    return Features(item, folder, arrays, settings, provenance, predictions, record.source, damage, warnings)


def item_source(item: Item) -> Source:
    """Size and time of an item's file, or the checksum of its texts. Raises MediaError."""
    if item.texts:
        content = "\n".join(item.texts).encode("utf-8", "surrogatepass")
        return Source(str(item.path), texts_sha256=hashlib.sha256(content).hexdigest())
    try:
        facts = check_plain(item.path)
    except OSError as error:
        raise MediaError(f"{item.path}: cannot be read ({error.strerror}): check the path") from error
    return Source(str(item.path), size_bytes=facts.st_size, mtime=facts.st_mtime)


def setting_changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    """For people: "extraction_fps: 1 -> 2, precision: fp16 -> fp32"; nested settings by their dotted name."""
    was, now = _flat(old), _flat(new)
    absent = "(not set)"
    return ", ".join(
        f"{name}: {_short(was.get(name, absent))} -> {_short(now.get(name, absent))}"
        for name in sorted(was.keys() | now.keys())
        if was.get(name, absent) != now.get(name, absent)
    )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in settings.items():
        inner = isinstance(value, dict) and value
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


def _short(value: Any, limit: int = 60) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 3] + "..."
