"""Names of items: unique within a run, also on file systems that ignore case."""

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from utils.types import Item


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
    return [_relative(each.path, root) for each in found]


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


def _relative(path: Path, root: str) -> str:
    folder = os.path.dirname(os.path.abspath(path))
    below = os.path.relpath(folder, root) if root else os.curdir
    return path.stem if below == os.curdir else f"{Path(below).as_posix()}/{path.stem}"
