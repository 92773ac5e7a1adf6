"""Where the records of saved items are: a meta file beside the files of each, or one `meta.jsonl` for all of them."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from store.files import remove
from store.forms import Form
from store.journal import JOURNAL, Journal
from store.record import META, Record, read_record, write_record
from utils.errors import MediaError


class Records:
    """Those below `output_path`, by the path that an item's meta file has, or would have."""

    def __init__(self, output_path: Path, *, flat: bool = False) -> None:
        """`flat`: all results lie in `output_path` itself, with one journal."""
        self._home, self._journal = output_path, Journal(output_path / JOURNAL) if flat else None

    def place(self, folder: str) -> str:
        """Of results of `folder` below `output_path`."""
        return folder if self._journal is None else ""

    def read(self, meta: Path) -> Record | None:
        return read_record(meta) if self._journal is None else self._journal.read(self._item(meta))

    def write(self, meta: Path, folder: str, record: Record) -> None:
        """UserError if it cannot be written."""
        if self._journal is None:
            write_record(meta, record)
        else:
            self._journal.write(folder, record)

    def remove(self, meta: Path) -> None:
        if self._journal is not None:
            self._journal.remove(self._item(meta))
        elif meta.exists():
            remove(meta)

    def saved(self, folder: str) -> Iterator[Record]:
        """What is there of a folder, as far as it can be read."""
        if self._journal is None:
            yield from _beside_their_files(self._home / folder)
        else:
            yield from (record for _, _, record in self._journal.records() if record is not None)

    def num_bytes(self, meta: Path) -> int:
        """Of a record beside its files; those in a journal share it."""
        return meta.stat().st_size if self._journal is None else 0

    def end(self) -> None:
        if self._journal is not None:
            self._journal.sync()

    def _item(self, meta: Path) -> str:
        return meta.relative_to(self._home).as_posix().removesuffix(META)


def _beside_their_files(folder: Path) -> Iterator[Record]:
    """In the order of the disk, so that 100,000 names need not be read to find one."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(META):
                    if (record := read_record(Path(entry.path))) is not None:
                        yield record
                elif entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                    yield from _beside_their_files(Path(entry.path))
    except OSError:  # not there, or not ours to read: whoever writes there says so
        return


def refuse_other_input(meta: Path, old: Record, new: Record) -> None:
    """`dog.mp4` is no older version of `dog.jpg`."""
    if not new.source.texts_sha256 and old.source.path and Path(old.source.path).name != Path(new.source.path).name:
        raise MediaError(
            f"{new.source.path}: {meta.parent} already holds results of {old.source.path} under the name "
            f"{new.item!r}: rename one of the two, or choose another output_path"
        )


def refuse_shared_names(records: Records, meta: Path, names: Iterable[str]) -> None:
    """`dog` + `source_fps` and `dog_source` + `fps` are the same file name: refused, never overwritten.

    Raises MediaError if one of `names` is on the record of another item.
    """
    pieces = [name.split("_") for name in names]
    items = {"_".join(each[:count]) for each in pieces for count in range(1, len(each))}
    for item in items - {meta.name.removesuffix(META)}:
        record = records.read(meta.with_name(item + META))
        taken = sorted(set(names) & record.files.keys()) if record is not None else []
        if record is not None and taken:
            path = meta.with_name(taken[0])
            raise MediaError(f"{path}: already holds results of the item {record.item!r}: rename one of the two inputs")


def keep_or_clear(
    records: Records, meta: Path, old: Record | None, new: Record, forms: Iterable[Form]
) -> dict[str, dict[str, Any]]:
    """The recorded files of other forms, if they stay valid; else the old results are taken away.

    The meta file goes first: killed half-way, new arrays must not lie beside a record of the old settings.
    """
    if old is not None and old.settings == new.settings and old.source.same_as(new.source):
        mine = {None, *(form.name for form in forms)}  # predictions are of no form
        return {name: facts for name, facts in old.files.items() if facts.get("form") not in mine}
    records.remove(meta)
    start = meta.name.removesuffix(META)
    for name in old.files if old is not None else ():
        if name.startswith(start) and Path(name).name == name:
            remove(meta.with_name(name))
    return {}
