"""The job behind `--config-name plan`: what an extraction would take, before anything is spent. Leaves no files but its
report.
"""

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from extraction.options import ReaderOptions
from extraction.pipeline import THREADS, Extractor, Stream
from extraction.probe import Expected, Speed, measure
from media.headers import video_header
from media.images import frames_by_header
from media.limits import DEFAULT_LIMITS
from media.texts import read_texts
from store.checks import expected_rows
from store.files import atomic_write, encode, plain, storage_error
from store.forms import Form
from store.history import History, look_back
from store.items import Store, forms_and_shows
from store.sizes import bytes_of
from utils.errors import MediaError, check_number
from utils.progress_bar import progress_bar
from utils.types import Item, Show
from utils.units import aligned, size_text, time_text

_LISTED = 20
_SAVED = 5  # times that one result is saved, to see how long that takes


@dataclass(frozen=True)
class Look:
    """One input by its header."""

    item: Item
    done: bool = False
    problem: str = ""
    seconds: float | None = None
    frames: int | None = None
    rows: int = 0
    pixels: int = 0


@dataclass(frozen=True)
class Share:
    """What one kind of input takes."""

    files: int
    done: int
    to_do: int
    seconds: float = 0.0  # of video
    frames: int = 0
    rows: int = 0
    bytes: int = 0
    peak_bytes: int = 0  # while forms are put together at the end
    takes_seconds: float | None = None
    unreadable: dict[str, str] = field(default_factory=dict)  # path: why


def plan(
    *,
    inputs: Mapping[str, list[Item]],
    extractor: Extractor,
    on_extraction: dict[str, Form | Show] | list[Form | Show],
    output_path: str | Path = "./output",
    readers: ReaderOptions = THREADS,
    retry_failed: bool = False,
    overwrite: bool = False,
    flat: bool = False,
    probe_seconds: float = 10,
    report: str | None = None,
    **__: Any,  # what else a run is given does not change what it takes
) -> int:
    """Show what `extraction.pipeline.extract` would do; 1 if something is unreadable or does not fit the disk."""
    check_number("probe_seconds", probe_seconds, least=0, most=3600)
    forms, _ = forms_and_shows(on_extraction)
    streams = {kind: extractor.streams[kind] for kind in inputs}
    ledger = Path(output_path) / "ledger.jsonl" if forms else None
    history = look_back(ledger, [stream.folder for stream in streams.values()], retry_failed=retry_failed)
    inputs = history.still_missing(inputs) if retry_failed else inputs
    store, place = Store(output_path, forms, overwrite=overwrite, flat=flat), _nearest_folder(Path(output_path))
    for kind, stream in streams.items():
        store.check_place(stream.folder, kind, plain(stream.settings))
    shares: dict[str, Share] = {}
    for kind, items in inputs.items():
        looks = list(_looks(kind, items, streams[kind], store, history))
        todo = [Expected(look.item, look.rows, look.pixels) for look in looks if not look.done and not look.problem]
        speed = Speed()
        if todo:
            speed = measure(
                streams[kind], todo, batch_size=extractor.batch_size, readers=readers, seconds=probe_seconds
            )
        saving = _saving_seconds(speed, forms, place) if todo else 0.0
        shares[kind] = _share(looks, speed, forms, saving)
    needed, free = sum(each.peak_bytes for each in shares.values()), shutil.disk_usage(place).free
    unreadable = {path: why for each in shares.values() for path, why in each.unreadable.items()}
    print("\n".join(_shown(shares, unreadable, forms, str(output_path), needed, free)))
    ok = not unreadable and needed <= free
    if report is not None:
        _write(Path(report), {"ok": ok, "kinds": shares, "needed_bytes": needed, "free_bytes": free})
    return int(not ok)


def _write(report: Path, content: dict[str, Any]) -> None:
    kinds = {kind: asdict(share) for kind, share in content["kinds"].items()}
    with atomic_write(report) as file:
        file.write(encode(content | {"kinds": kinds}, indent=1) + b"\n")


def _looks(kind: str, items: Sequence[Item], stream: Stream, store: Store, history: History) -> Iterator[Look]:
    look = partial(_look, kind=kind, stream=stream, store=store, settings=plain(stream.settings), history=history)
    threads = 4 * (os.cpu_count() or 1)
    with (
        ThreadPoolExecutor(threads, thread_name_prefix="look") as pool,
        closing(progress_bar(pool.map(look, items), f"{kind}s", unit=" files", total=len(items), passing=True)) as bar,
    ):
        yield from bar


def _look(item: Item, *, kind: str, stream: Stream, store: Store, settings: dict[str, Any], history: History) -> Look:
    if store.done(item, stream.folder, settings):
        return Look(item, done=True)
    if refusal := history.refusal(item):
        return Look(item, problem=refusal)
    limits = getattr(stream.rows, "limits", DEFAULT_LIMITS)
    try:
        if kind == "video":
            header = video_header(item.path, limits)
            rows = expected_rows(settings.get("sampling", {}), header.seconds, header.num_frames)
            return Look(item, False, "", header.seconds, header.num_frames, round(rows or 0), header.pixels)
        count = frames_by_header(item.path, limits=limits) if kind == "image" else sum(1 for _ in read_texts(item))
        return Look(item, rows=count)
    except MediaError as error:
        return Look(item, problem=str(error))


def _saving_seconds(speed: Speed, forms: Sequence[Form], place: Path) -> float:
    """For one item: that it is safe on the disk takes longer, on many disks, than to compute it does on a GPU."""
    if speed.seconds_per_row is None or speed.features is None or not forms:
        return 0.0
    try:
        with TemporaryDirectory(prefix=".plan-", dir=place) as folder:
            store, started = Store(folder, forms, shared=False), time.monotonic()
            for number in range(_SAVED):
                store.save(replace(speed.features, item=replace(speed.features.item, name=str(number))))
            return (time.monotonic() - started) / _SAVED
    except OSError as error:
        raise storage_error(place, error) from error


def _share(looks: Sequence[Look], speed: Speed, forms: Sequence[Form], saving_seconds: float) -> Share:
    problems = {str(look.item.path): look.problem for look in looks if look.problem}
    problems |= {str(path): why for path, why in speed.problems}
    left = [look for look in looks if not look.done and str(look.item.path) not in problems]
    rows = [look.rows for look in left]
    final, peak = bytes_of(rows, speed.features, forms)
    takes = None
    if speed.seconds_per_row is not None:  # saving goes on beside the rest
        takes = max(sum(rows) * speed.seconds_per_row, len(left) * saving_seconds)
    return Share(
        files=len(looks),
        done=sum(look.done for look in looks),
        to_do=len(left),
        seconds=sum(look.seconds or 0.0 for look in left),
        frames=sum(look.frames or 0 for look in left),
        rows=sum(rows),
        bytes=final,
        peak_bytes=peak,
        takes_seconds=takes,
        unreadable=problems,
    )


def _shown(
    shares: Mapping[str, Share],
    unreadable: Mapping[str, str],
    forms: Sequence[Form],
    output_path: str,
    needed: int,
    free: int,
) -> Iterator[str]:
    """A table with a line for each kind; what is missing, the first of what cannot be read."""
    rows = [("", "files", "done", "unreadable", "to do", "video", "frames", "rows", "on disk", "takes")]
    rows += [_cells(f"{kind}s", each) for kind, each in shares.items()]
    if len(shares) > 1:
        rows.append(_cells("total", _total(list(shares.values()))))
    yield aligned(rows)
    if forms:
        peak = " while they are put together" if needed > sum(each.bytes for each in shares.values()) else ""
        short = f": {size_text(needed - free)} ARE MISSING" if needed > free else ""
        yield f"{output_path}: {size_text(needed)} are needed{peak}, {size_text(free)} are free{short}"
    else:
        yield "nothing is saved: give on_extraction=save_numpy, or another form, to see what it takes"
    yield from (
        f"unreadable: {why if path in why else f'{path}: {why}'}" for path, why in list(unreadable.items())[:_LISTED]
    )
    if len(unreadable) > _LISTED:
        yield f"... and {len(unreadable) - _LISTED:,} more (report=FILE.json lists all)"


def _cells(name: str, share: Share) -> tuple[str, ...]:
    counts = (f"{number:,}" for number in (share.files, share.done, len(share.unreadable), share.to_do))
    video = (time_text(share.seconds), f"{share.frames:,}") if share.seconds else ("-", "-")
    takes = "-" if share.takes_seconds is None else time_text(share.takes_seconds)
    return (name, *counts, *video, f"{share.rows:,}", size_text(share.bytes) if share.bytes else "-", takes)


def _total(shares: Sequence[Share]) -> Share:
    """One kind is done after the other."""
    summed = {
        name: sum(getattr(each, name) for each in shares)
        for name in ("files", "done", "to_do", "seconds", "frames", "rows", "bytes", "peak_bytes")
    }
    times = [each.takes_seconds for each in shares if each.to_do]
    known = [seconds for seconds in times if seconds is not None]
    unreadable = {path: why for each in shares for path, why in each.unreadable.items()}
    takes = sum(known) if known and len(known) == len(times) else None
    return Share(**summed, takes_seconds=takes, unreadable=unreadable)


def _nearest_folder(output_path: Path) -> Path:
    """That is there, on the way up."""
    folder = Path(os.path.abspath(output_path))
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder
