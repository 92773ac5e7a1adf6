"""Opens saved results and says what is wrong with each: its files, its arrays, its source. Changes nothing."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from store.checks import Finding, Found, array_findings, features_in
from store.files import encode
from store.forms import Form, Gathers
from store.journal import JOURNAL, Journal
from store.places import record_kind
from store.provenance import file_sha256
from store.reading import item_meta
from store.record import META, PREDICTIONS, Record, item_source, read_record, record_of
from utils.errors import MediaError, UserError, first_line
from utils.types import Features, Item, Source

_LARGE_BYTES = 1 << 26  # a grid of hours may be larger than the memory
Recount = Callable[[Record], int]  # rows that the source gives today; MediaError where it gives none


@dataclass(frozen=True)
class Checked:
    """What was found of one result, and what others are to be compared with."""

    path: Path  # its meta file, or the one file of a whole folder
    item: str
    findings: tuple[Finding, ...] = ()
    files: tuple[Path, ...] = ()
    num_bytes: int = 0
    kind: str = ""  # "video", "image", "text"
    source: Source | None = None
    settings: str = ""  # as JSON
    features_sha256: str = ""  # of the features themselves


def check(path: Path, forms: Sequence[Form], recount: Recount | None = None) -> list[Checked]:
    """The result of a meta file, or all those in one file of a whole folder (`.h5`) or a journal. Thread-safe."""
    if path.name == JOURNAL:
        return list(_of_journal(path, forms, recount))
    if not path.name.endswith(META):
        gathering = (form for form in forms if isinstance(form, Gathers) and path.name.endswith(form.gathered_ending))
        return [checked for form in gathering for checked in _of_archive(path, form, recount)]
    record = read_record(path)
    if record is None and path.exists():  # else done again just now
        item = path.name.removesuffix(META)
        return [Checked(path, item, (Finding("unreadable meta", str(path), "damaged, or of another format"),))]
    return [_of_meta(path, record, forms, recount)] if record is not None else []


def source_is_there(source: Source | None) -> bool:
    return source is not None and bool(source.texts_sha256 or os.path.exists(source.path))


def _of_journal(journal: Path, forms: Sequence[Form], recount: Recount | None) -> Iterator[Checked]:
    for item, _, record in Journal(journal).records():
        try:
            if record is None:
                raise MediaError(f"the line of {item[:200]!r} is damaged")
            found = _of_meta(item_meta(journal, record), record, forms, recount)
        except MediaError as error:
            yield Checked(journal, item, (Finding("unreadable meta", str(journal), str(error)),))
            continue
        meta = str(found.path)
        findings = (
            replace(each, path=str(journal), text=f"{item}: {each.text}") if each.path == meta else each
            for each in found.findings
        )
        yield replace(found, path=journal, findings=tuple(findings))


def _of_meta(meta: Path, record: Record, forms: Sequence[Form], recount: Recount | None) -> Checked:
    opened = _Opened()
    for name, facts in record.files.items():
        opened.add(meta.with_name(name), facts, next((each for each in forms if each.name == facts.get("form")), None))
    found: list[Found] = []
    try:
        for arrays in opened.arrays.values():
            found += array_findings(arrays, record, opened.predictions)
        found = [*dict.fromkeys(found), *_source_findings(record, recount)]  # one form says what the other does
    except Exception as error:  # a forged record may hold anything
        found.append(("unreadable meta", f"what it says cannot be ({type(error).__name__}: {first_line(error)})"))
    return replace(
        _described(meta, record),
        findings=(*opened.findings, *(Finding(kind, str(meta), text) for kind, text in found)),
        files=tuple(meta.with_name(name) for name in record.files),
        num_bytes=opened.num_bytes,
        features_sha256=next(filter(None, map(_digest, opened.arrays.values())), ""),
    )


@dataclass
class _Opened:
    """The files of one item, one by one."""

    arrays: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)  # by form
    predictions: Any = None
    findings: list[Finding] = field(default_factory=list)
    num_bytes: int = 0

    def add(self, path: Path, facts: dict[str, Any], form: Form | None) -> None:
        try:
            self.num_bytes += path.stat().st_size
            if problem := _not_as_recorded(path, facts):
                self.findings.append(Finding("damaged file", str(path), problem))
            elif path.name.endswith(PREDICTIONS):
                self.predictions = json.loads(path.read_bytes())
            else:
                read = _arrays(path, facts, form)
                self.findings += (Finding("wrong shape", str(path), text) for text in _shape_problems(read, facts))
                self.arrays.setdefault(str(facts.get("form")), {}).update(read)
        except FileNotFoundError:
            self.findings.append(Finding("missing file", str(path), "its meta file lists it"))
        except Exception as error:  # whatever comes out of a damaged file, or one that somebody forged
            self.findings.append(Finding("damaged file", str(path), first_line(error)))


def _of_archive(archive: Path, form: Gathers, recount: Recount | None) -> Iterator[Checked]:
    try:
        for number, features in enumerate(form.items(archive)):
            num_bytes = archive.stat().st_size if not number else 0
            if isinstance(features, MediaError):
                finding = Finding("damaged file", str(archive), str(features).removeprefix(f"{archive}: "))
                yield Checked(archive, "", (finding,), num_bytes=num_bytes)
            else:
                yield replace(_of_features(archive, features, recount), num_bytes=num_bytes)
    except UserError as error:
        text = str(error).removeprefix(f"{archive}: ")
        yield Checked(archive, "", (Finding("damaged file", str(archive), text),))


def _of_features(archive: Path, features: Features, recount: Recount | None) -> Checked:
    """Bytes and shapes were compared with the record when they were read."""
    record = record_of(features, {})
    predictions = features.predictions or None
    found = [*array_findings(features.arrays, record, predictions), *_source_findings(record, recount)]
    name = features.item.name
    findings = tuple(Finding(kind, str(archive), f"{name}: {text}") for kind, text in found)
    return replace(_described(archive, record), findings=findings, features_sha256=_digest(features.arrays))


def _described(path: Path, record: Record) -> Checked:
    settings = {key: value for key, value in record.settings.items() if key != "damage"}  # that may differ
    return Checked(
        path, record.item, kind=record_kind(record), source=record.source, settings=encode(settings).decode()
    )


def _not_as_recorded(path: Path, facts: dict[str, Any]) -> str:
    size, expected = path.stat().st_size, facts.get("bytes")
    if expected is not None and size != expected:
        return f"{size:,} bytes, its meta file says {expected:,}"
    if facts.get("sha256") not in (None, file_sha256(path)):
        return "not the bytes that were written: its SHA-256 is another than its meta file says"
    return ""


def _arrays(path: Path, facts: dict[str, Any], form: Form | None) -> dict[str, np.ndarray]:
    """What one file holds; nothing where it holds no arrays (captions) or nobody knows how to read it."""
    if form is None or not {"key", "arrays"} & facts.keys():
        return {}
    facts = facts | {"left_out": []}  # xmodaler_video refuses to read what is not all; here that is no matter
    if path.suffix == ".npy" and facts.get("bytes", 0) > _LARGE_BYTES:  # as it lies on the disk
        return {facts["key"]: np.load(path, mmap_mode="r", allow_pickle=False)}
    return form.read(path, facts)


def _shape_problems(arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> Iterator[str]:
    inside = facts.get("arrays", {"": facts} if "key" in facts else {})
    for name, said in inside.items():
        key = said.get("key", name)
        found, shape = arrays[key], said.get("shape")
        if shape is not None and list(found.shape) not in (shape, [1, *shape]):  # npz: an image's grid has no row
            yield f"{key}: shape {list(found.shape)}, its meta file says {shape}"
        if said.get("dtype") not in (None, str(found.dtype)):
            yield f"{key}: {found.dtype}, its meta file says {said['dtype']}"


def _digest(arrays: dict[str, np.ndarray]) -> str:
    features = features_in(arrays)
    return "" if features is None else hashlib.sha256(np.ascontiguousarray(features).data).hexdigest()


def _source_findings(record: Record, recount: Recount | None) -> Iterator[Found]:
    texts = tuple(map(str, record.provenance.get("texts", ())))
    source = record.source
    if source.texts_sha256:
        if texts and not source.same_as(item_source(Item(Path(source.path), record.item, texts))):
            yield "changed source", "its texts are not those that its source names"
        return
    try:
        today = item_source(Item(Path(source.path), record.item))
    except MediaError:
        yield "no source", f"{source.path} is not there: what it holds today is not known"
        return
    if not source.same_as(today):
        yield "changed source", f"{source.path} was replaced since: {_difference(source, today)}"
    elif recount is not None:
        try:
            rows, said = recount(record), record.provenance.get("rows")
            if said is not None and rows != said:
                yield "wrong recount", f"{said:,} rows, {source.path} gives {rows:,}"
        except MediaError as error:
            yield "wrong recount", f"its source cannot be read now: {error}"


def _difference(before: Source, today: Source) -> str:
    if before.size_bytes != today.size_bytes:
        return f"{before.size_bytes or 0:,} bytes then, {today.size_bytes or 0:,} now"
    return "another time of change"
