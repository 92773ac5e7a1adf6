"""`<item>_meta.json`: what was saved, from which source, under which settings. Written last: present = complete."""

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from store.atomic import atomic_write
from store.plain_json import encode
from store.provenance import item_source
from utils.errors import MediaError
from utils.types import Item

_FORMAT = 1


@dataclass(frozen=True)
class Record:
    """The content of one meta file; all values are plain JSON."""

    item: str
    settings: dict[str, Any]
    source: dict[str, Any]  # {"path", "size_bytes", "mtime"} as they were when it was read, or {"path", "texts_sha256"}
    files: dict[str, dict[str, Any]]  # name in the same folder -> {"shape", "dtype", "bytes", "sha256"}
    provenance: dict[str, Any] = field(default_factory=dict)


def read_record(path: Path) -> Record | None:
    """The record in `path`; None where there is none that can be used (absent, damaged, of another format)."""
    try:
        return parse_record(path.read_bytes())
    except OSError:
        return None


def parse_record(data: bytes | str) -> Record | None:
    try:
        content = json.loads(data)
        if content["format"] != _FORMAT:
            return None
        record = Record(**{key: content[key] for key in ("item", "settings", "source", "files", "provenance")})
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    parts = [record.settings, record.source, record.files, record.provenance]
    parts += record.files.values() if isinstance(record.files, dict) else []
    return record if all(isinstance(part, dict) for part in parts) else None


def write_record(path: Path, record: Record) -> None:
    """Raises UserError if it cannot be written."""
    with atomic_write(path) as file:
        file.write(record_bytes(record) + b"\n")


def record_bytes(record: Record) -> bytes:
    saved = datetime.now(UTC).isoformat(timespec="seconds")
    return encode({"format": _FORMAT, "saved": saved} | asdict(record), indent=2)


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


def same_source(recorded: dict[str, Any], item: Item) -> bool:
    """Whether the item is the one of the record: a file by size and time, wherever it lies, texts by their content."""
    try:
        found = item_source(item)
    except MediaError:
        return False  # whoever reads it next says so
    return same_facts(recorded, found)


def same_facts(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one.get(key) == other.get(key) for key in ("size_bytes", "mtime", "texts_sha256"))


def other_file(recorded: dict[str, Any], source: dict[str, Any]) -> str | None:
    """The recorded source where it is of another name: `dog.mp4` is no older version of `dog.jpg`."""
    path = recorded.get("path")
    if "texts_sha256" in source or not path or Path(path).name == Path(source["path"]).name:
        return None
    return path
