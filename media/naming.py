"""Names of items: unique within a run, also on file systems that ignore case.

Those of images follow `id_mode`, as data sets number them:
- `stem`: sub folders and stem, as for videos;
- `coco_int`: the number in COCO's file names, for tools that look features up by image id (X-modaler);
- `column`: the first column of a list with lines "id, path", as NoCaps has it.
"""

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from utils.errors import UserError, some
from utils.types import Item

logger = logging.getLogger(__name__)

IdMode = Literal["stem", "coco_int", "column"]


class Found(NamedTuple):
    path: Path
    root: str  # absolute folder that the name of this item is relative to, unless other inputs lie further up
    where: str = ""  # "list.txt, line 3: ", for messages


def stem_names(found: Sequence[Found]) -> list[str]:
    """Sub folders below the common root + stem."""
    try:
        root = os.path.commonpath([each.root for each in found])
    except ValueError:  # nothing at all, or inputs on two Windows drives
        root = ""
    below: dict[str, str] = {}  # of a folder as it is given: there are far fewer of them than of files
    return [_relative(each.path, root, below) for each in found]


def real_paths(found: Sequence[Found]) -> list[str]:
    """By what a file is recognised again, whatever links lead to it; a name no file can have stays as it is."""
    folders: dict[str, str] = {}
    return [_real_path(os.fspath(each.path), folders) for each in found]


def each_once(kind: str, found: Sequence[Found]) -> list[Found]:
    """One line for all that name a file again: fewer results than names would else be a riddle."""
    first: dict[str, Found] = {}
    again = []
    for each, real in zip(found, real_paths(found), strict=True):
        if (earlier := first.setdefault(real, each)) is not each:
            again.append(f"{each.path}{'' if each.path == earlier.path else f' is {earlier.path}'}")
    _tell_of(again, kind, len(found))
    return list(first.values())


def _tell_of(again: Sequence[str], kind: str, total: int) -> None:
    if again:
        how = "named twice, or by a symbolic link, and done once"
        logger.warning("%d of %d %ss are %s: %s", len(again), total, kind, how, some(again))


def kept_apart(found: Sequence[Found], names: Sequence[str], taken: Sequence[str] = ()) -> list[Item]:
    """Items with these names; equal ones, and those in `taken`, get the file's ending too, then a number."""
    counts = Counter(map(folded, [*names, *taken]))
    used = {name for name, count in counts.items() if count == 1} | set(map(folded, taken))
    items = []
    for each, name in zip(found, names, strict=True):
        if counts[folded(name)] > 1:  # who is alone keeps its name
            ending = each.path.suffix.lstrip(".")
            longer = f"{name}_{ending}" if ending else name
            name, number = longer, 1
            while folded(name) in used:
                number += 1
                name = f"{longer}_{number}"
            used.add(folded(name))
        items.append(Item(path=each.path, name=name))
    return items


def folded(name: str) -> str:
    """What a case-insensitive, Unicode-normalising file system compares."""
    return unicodedata.normalize("NFC", name).casefold()


def _relative(path: Path, root: str, below: dict[str, str]) -> str:
    if path.name == os.pardir:  # goes up, and has no stem
        path = Path(os.path.abspath(path))
    folder = os.path.dirname(path)
    if folder not in below:
        name = os.path.relpath(os.path.abspath(folder), root) if root else os.curdir
        below[folder] = "" if name == os.curdir else f"{Path(name).as_posix()}/"
    return below[folder] + path.stem


def _real_path(path: str, folders: dict[str, str]) -> str:
    folder, name = os.path.split(path)
    try:
        if os.path.islink(path) or name in ("", os.curdir, os.pardir):
            return os.path.realpath(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        return os.path.join(folders[folder], name)
    except (OSError, ValueError):  # too long, say, or with a NUL in it: whoever opens it says so
        return path


def coco_id(found: Found) -> str:
    """`val2014/COCO_val2014_000000391895.jpg` -> "391895"."""
    number = coco_number(found.path.name)
    if number is None:
        raise UserError(
            f"{found.where}{found.path}: id_mode=coco_int expects a number at the end of the name, as in "
            "COCO_val2014_000000391895.jpg; use id_mode=stem"
        )
    return number


def coco_number(name: str) -> str | None:
    """Of a file's name: up to the first dot, after the last `_`, without zeros. None where that is no number."""
    number = name.partition(".")[0].rpartition("_")[2]
    return number.lstrip("0") or "0" if re.fullmatch("[0-9]+", number) else None


def id_and_path(line: str, where: str) -> tuple[str, str]:
    """`0, val/0013ea2087020901.jpg` -> ("0", "val/0013ea2087020901.jpg"); the path may hold commas."""
    name, _, path = (part.strip() for part in line.partition(","))
    if not (name and path):
        raise UserError(f"{where}id_mode=column expects `id, path`, found {line.strip()!r}; use id_mode=stem")
    if any(part in ("", ".", "..") for part in re.split(r"[/\\]", name)):  # it becomes a file below output_path
        raise UserError(f"{where}id_mode=column expects an id that can be the name of a file, found {name!r}")
    return name, path


def with_ids(found: Sequence[Found], ids: Sequence[str]) -> list[Item]:
    """A file once under each of its ids. UserError where two files have the same."""
    first: dict[str, tuple[str, Item]] = {}
    again = []
    for each, name, real in zip(found, ids, real_paths(found), strict=True):
        if folded(name) in first:
            again.append(str(each.path))
        other_real, other = first.setdefault(folded(name), (real, Item(each.path, name)))
        if other_real != real:
            raise UserError(
                f"{each.where}two images with the id {name}: {other.path} and {each.path}; use id_mode=stem"
            )
    _tell_of(again, "image", len(found))
    return [item for _, item in first.values()]
