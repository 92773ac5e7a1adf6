"""The job behind `--config-name verify`: opens every saved result, says what is wrong, and has it done again."""

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from apps.convert import every_form
from media.images import open_image
from media.sampling import sampler_from
from media.video import VideoReader
from store.checks import WARNINGS, Finding
from store.files import atomic_write, encode, remove
from store.forms import Form
from store.inventory import Inventory, common_findings, stray_findings, take_inventory
from store.journal import JOURNAL, Journal
from store.locks import remove_left
from store.record import META, Record
from store.verify import Checked, check, source_is_there
from utils.errors import UserError, check_count, check_flags
from utils.progress_bar import progress_bar
from utils.units import aligned, size_text, time_text

logger = logging.getLogger(__name__)

_REDONE = (  # what doing it again mends; other settings or weights are the user's to choose between
    *("missing file", "damaged file", "wrong shape", "not finite", "wrong rows", "wrong times", "changed source"),
    *("wrong recount", "unreadable meta"),
)


def all_forms() -> list[Form]:
    """Of features and of captions."""
    return [*every_form("extract/on_extraction"), *every_form("caption/on_caption")]


def verify(
    *,
    input_path: str,
    forms: Sequence[Form],
    repair: bool = False,
    decode: bool = False,
    workers: int | None = None,
    report: str | None = None,
    num_listed: int = 20,
) -> int:
    """Check all results below `input_path`; the exit status, 0 only if nothing is wrong (warnings may be)."""
    check_flags(repair=repair, decode=decode)
    check_count("num_listed", num_listed, least=0)
    if workers is not None:
        check_count("workers", workers)
    started = time.monotonic()
    inventory = take_inventory(Path(input_path), forms)
    results = list(_checked(inventory, forms, decode=decode, workers=workers or 4 * (os.cpu_count() or 1)))
    findings = [finding for each in results for finding in each.findings]
    findings += [*stray_findings(inventory, results), *common_findings(results)]
    findings.sort(key=lambda finding: finding.kind in WARNINGS)
    summary = _summary(results, inventory, time.monotonic() - started)
    print("\n".join([f"{input_path}: {summary}", *_shown(findings, num_listed, report)]))
    for holder in dict.fromkeys(inventory.holders):
        logger.warning("%s is at work there: what it has begun may look unfinished", holder)
    if report is not None:
        _write(Path(report), input_path, results, findings)
    if repair:
        _repair(inventory, results)
    return int(any(finding.kind not in WARNINGS for finding in findings))


def recount(record: Record) -> int:
    """The rows that a result's source gives today, by its settings. MediaError where it cannot be read."""
    path, sampling = Path(record.source.path), record.settings.get("sampling")
    if not isinstance(sampling, dict):
        with open_image(path) as image:
            return sum(1 for _ in image)
    sampler = sampler_from(sampling.get("fps"), sampling.get("num_rows"))
    on_damage = "raise" if record.settings.get("damage") == "none" else "keep"
    with VideoReader(path, on_damage=on_damage, threads=1) as video:
        return sum(1 for _ in sampler.rows(video))


def _checked(inventory: Inventory, forms: Sequence[Form], *, decode: bool, workers: int) -> Iterator[Checked]:
    paths = [*inventory.archives, *inventory.metas]
    with ThreadPoolExecutor(workers, thread_name_prefix="verify") as pool:
        of_each = pool.map(lambda path: check(path, forms, recount if decode else None), paths)
        with closing(progress_bar(of_each, "verify", unit=" files", total=len(paths))) as bar:
            for results in bar:
                yield from results


def _summary(results: Sequence[Checked], inventory: Inventory, seconds: float) -> str:
    num_files = sum(len(each.files) for each in results) + len(inventory.archives)
    size = size_text(sum(each.num_bytes for each in results))
    return f"{len(results):,} results, {num_files:,} files, {size} in {time_text(seconds)}"


def _shown(findings: Sequence[Finding], num_listed: int, report: str | None) -> Iterator[str]:
    """A table of how often what was found, then the first of them."""
    if not findings:
        yield "all is well"
        return
    counts = Counter(finding.kind for finding in findings)
    rows = [("warning" if kind in WARNINGS else "problem", kind, f"{n:,}") for kind, n in counts.items()]
    yield f"\n{aligned(rows, left=(0, 1))}\n"
    yield from (f"{each.kind}: {each.path}: {each.text}" for each in findings[:num_listed])
    if len(findings) > num_listed:
        where = f"all in {report}" if report else "report=FILE.json lists all"
        yield f"... and {len(findings) - num_listed:,} more ({where})"


def _write(report: Path, input_path: str, results: Sequence[Checked], findings: Sequence[Finding]) -> None:
    counts = Counter(finding.kind for finding in findings)
    listed = [asdict(each) | {"warning": each.kind in WARNINGS} for each in findings]
    ok = all(each["warning"] for each in listed)
    content: dict[str, Any] = {"input_path": input_path, "ok": ok, "results": len(results), "counts": counts}
    with atomic_write(report) as file:
        file.write(encode(content | {"findings": listed}, indent=1) + b"\n")


def _repair(inventory: Inventory, results: Sequence[Checked]) -> None:
    """Takes away the meta files of bad results, and what killed runs left; says each."""
    if inventory.holders:
        raise UserError(
            f"repair=true: {inventory.holders[0]} is at work there: wait until it has ended; nothing is removed"
        )
    queued = 0
    for each in results:
        if any(finding.kind in _REDONE for finding in each.findings):
            queued += _queue(each)
    for path in inventory.temporary:
        _remove_leftover(path)
    print(f"repair=true: {queued:,} results queued: the command that made them, run again, does these and nothing else")


def _queue(bad: Checked) -> bool:
    """Whether the next extraction does it again."""
    if not bad.settings:  # its record cannot be read: the next run takes no notice of it
        return True
    if not source_is_there(bad.source):
        print(f"kept: {bad.path}: its source is not there to do it again")
        return False
    if bad.path.name == JOURNAL:
        Journal(bad.path).remove(bad.item)
        print(f"removed: {bad.item} from {bad.path}")
        return True
    if not bad.path.name.endswith(META):
        print(f"kept: {bad.path}: {bad.item}: what is damaged in it is done again; for other faults move it away")
        return any(finding.kind in ("damaged file", "changed source") for finding in bad.findings)
    remove(bad.path)
    print(f"removed: {bad.path}")
    return True


def _remove_leftover(path: Path) -> None:
    if path.parent.name == ".locks":
        remove_left(path)
    else:
        remove(path)
    print(f"removed: {path}")
