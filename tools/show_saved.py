"""What a folder of saved features holds: `python tools/show_saved.py output`.

For every item the files with their shapes, as its meta file lists them, and where `show_pred` was on the best text of
every row with its probability; rows that agree are joined.
"""

import json
import os
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script
from store.journal import JOURNAL, Journal
from store.reading import item_meta
from store.record import Record, parse_record, read_record
from utils.plain_files import check_plain, read_plain

_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, LookupError, RuntimeError)  # of files, and h5py's


def show(output_path: Path) -> None:
    metas = sorted(output_path.rglob("*_meta.json"))
    archives = sorted([*output_path.rglob("*.h5"), *output_path.rglob(JOURNAL)])
    if not metas and not archives:
        sys.exit(f"error: {output_path}: no saved features in this folder (on_extraction=save_numpy saves them)")
    for path in (*archives, *metas):
        try:
            if path.name == JOURNAL:
                _show_journal(path)
            else:
                _show_hdf5(path) if path.suffix == ".h5" else _show_item(path, read_record(path))
        except BrokenPipeError:
            raise
        except _DAMAGE as error:
            print(f"\n{path}: cannot be shown: {(str(error) or type(error).__name__).splitlines()[0][:200]}")


def _show_journal(journal: Path) -> None:
    for _, _, record in Journal(journal).records():
        _show_item(journal if record is None else item_meta(journal, record), record)


def _show_item(meta: Path, record: Record | None) -> None:
    if record is None:
        raise ValueError("damaged, or of another format")
    print(f"\n{meta.parent / record.item.split('/')[-1]}")
    for name, facts in record.files.items():
        if name.endswith("_predictions.json"):
            print(f"  {name}")
            _show_predictions(json.loads(read_plain(meta.parent / name)))
        for key, inside in facts.get("arrays", {"": facts}).items():
            if "shape" in inside:
                print(f"  {name}  {key}  {tuple(inside['shape'])} {inside['dtype']}".replace("    ", "  "))


def _show_hdf5(archive: Path) -> None:
    import h5py  # late: only for those who have such files

    def show_item(name: str, group: Any) -> None:
        if "record" not in group.attrs:
            return
        print(f"\n{archive}: {name}")
        record = parse_record(group.attrs["record"])
        if record is None:
            raise ValueError(f"{name}: its record cannot be read")
        for key, facts in record.files.items():
            print(f"  {key}  {tuple(facts['shape'])} {facts['dtype']}")
        if "predictions" in group.attrs:
            _show_predictions(json.loads(group.attrs["predictions"]))

    check_plain(archive)
    with h5py.File(archive, "r") as file:
        file.visititems(show_item)


def _show_predictions(rows: list[dict[str, Any]]) -> None:
    for label, group in groupby(rows, key=lambda row: row["labels"][0]):
        same = list(group)
        first, last = (row["timestamp_ms"] / 1000 for row in (same[0], same[-1]))
        mean = sum(row["probabilities"][0] for row in same) / len(same)
        print(f"    {first:7.2f} to {last:.2f} s  {mean:.2f}  {label}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/show_saved.py FOLDER")
    try:
        show(Path(sys.argv[1]))
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough; nothing may be flushed at the end either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
