"""From many small files into one: what becomes of `save_hdf5`'s items when a run ends."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from store.files import remove
from store.forms import Gathers
from store.locks import PATIENCE_SECONDS, Locks
from store.reading import read_item
from store.record import META, PREDICTIONS, Record, read_record, write_record
from utils.errors import MediaError, UserError
from utils.types import Features

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Own:
    """An item's own file, and what its meta file says; no record where that does not list it."""

    path: Path
    meta: Path
    record: Record | None


def gather(form: Gathers, output_path: Path, folder: str, locks: Locks, *, shared: bool) -> list[MediaError]:
    """Puts the items of `folder` that have files of their own into the folder's one file; problems of single items.

    First the one file is safe on the disk, then an item's own file goes: a kill at any moment leaves every item in at
    least one of the two. Of processes that end at the same time, one does the work. Raises UserError where the one
    file cannot be written, or another process is at it and does not come to an end.
    """
    home, archive = output_path / folder, output_path / f"{folder}{form.gathered_ending}"
    if not any(home.rglob(f"*{form.ending}")):
        return []
    _wait_for(locks, archive)
    if shared and not locks.working:
        logger.warning("%s: its items stay in files of their own: --config-name convert gathers them", archive)
        return []
    try:
        own = _own_files(home, form)
        listed = {name: each for name, each in own.items() if each.record is not None}
        problems: dict[str, MediaError] = {}
        if listed:
            logger.info("%s: takes in %d items", archive, len(listed))
            problems = form.gather(archive, folder, _read(listed, form))
        for name, each in own.items():
            if name not in problems and locks.take(lock := f"{folder}/{name}"):  # else another process is at it again
                try:
                    _drop(name, each)
                finally:
                    locks.release(lock)
    finally:
        locks.release(str(archive))
    for place, _, _ in os.walk(home, topdown=False):
        with suppress(OSError):  # not empty
            os.rmdir(place)
    return list(problems.values())


def _wait_for(locks: Locks, archive: Path) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not locks.take(str(archive)):
        if time.monotonic() > end:
            raise UserError(
                f"{archive}: {locks.holder(str(archive))} has been writing it for {PATIENCE_SECONDS:.0f} s; what is "
                "done lies beside it: see whether that process hangs, and run the same command again"
            )
        time.sleep(0.2)


def _own_files(home: Path, form: Gathers) -> dict[str, _Own]:
    """By the names of their items."""
    found = {}
    for path in sorted(home.rglob(f"*{form.ending}")):
        name = path.relative_to(home).as_posix().removesuffix(form.ending)
        meta = path.with_name(path.name.removesuffix(form.ending) + META)
        record = read_record(meta)
        found[name] = _Own(path, meta, record if record is not None and path.name in record.files else None)
    return found


def _read(listed: dict[str, _Own], form: Gathers) -> Iterator[tuple[str, Features | MediaError]]:
    for name, own in listed.items():
        try:
            yield name, read_item(own.meta, [form])
        except MediaError as error:
            yield name, error


def _drop(name: str, own: _Own) -> None:
    """Takes away what is in the one file by now: first from the meta file, so that nobody misses it."""
    record = read_record(own.meta)
    listed = record is not None and own.path.name in record.files
    if listed and record != own.record:  # done again meanwhile
        return
    # One that is not listed was left over by a process killed just here, or before it wrote the meta file.
    rest = {file: facts for file, facts in record.files.items() if file != own.path.name} if record else {}
    if any("form" in facts for facts in rest.values()):
        if record is not None and rest != record.files:
            write_record(own.meta, replace(record, files=rest))
    else:
        remove(own.meta)
        remove(own.path.with_name(f"{Path(name).name}{PREDICTIONS}"))
    remove(own.path)
