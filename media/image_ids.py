"""Names for the results of images, as data sets number them: the options of `id_mode`.

- `stem`: sub folders and stem, as for videos;
- `coco_int`: the number in COCO's file names, for tools that look features up by image id (X-modaler);
- `column`: the first column of a list with lines "id, path", as NoCaps has it.
"""

import os
import re
from collections.abc import Sequence
from typing import Literal

from media.naming import Found, folded
from utils.errors import UserError
from utils.types import Item

IdMode = Literal["stem", "coco_int", "column"]


def coco_id(found: Found) -> str:
    """`val2014/COCO_val2014_000000391895.jpg` -> "391895": up to the first dot, after the last `_`, without zeros."""
    number = found.path.name.partition(".")[0].rpartition("_")[2]
    if not re.fullmatch("[0-9]+", number):
        raise UserError(
            f"{found.where}{found.path}: id_mode=coco_int expects a number at the end of the name, as in "
            "COCO_val2014_000000391895.jpg; use id_mode=stem"
        )
    return str(int(number))


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
    for each, name in zip(found, ids, strict=True):
        real = os.path.realpath(each.path)
        other_real, other = first.setdefault(folded(name), (real, Item(each.path, name)))
        if other_real != real:
            raise UserError(
                f"{each.where}two images with the id {name}: {other.path} and {each.path}; use id_mode=stem"
            )
    return [item for _, item in first.values()]
