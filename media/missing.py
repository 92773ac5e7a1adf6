"""Listed files that are not there: counted before anything is spent on a model."""

import logging
import os
from collections.abc import Mapping, Sequence

from utils.errors import UserError
from utils.types import Item

logger = logging.getLogger(__name__)

_LISTED = 20


def tell_missing(found: Mapping[str, Sequence[Item]], lists: Mapping[str, str | None], image_dir: str | None) -> None:
    """One warning for the files of each list ("video", "image": its path) that are not there; the run lists them too.

    UserError where none of a list is there: its lines are then relative to another folder.
    """
    for kind, list_file in lists.items():
        items = found.get(kind, ())
        if list_file is None or not items:
            continue
        missing = [str(item.path) for item in items if not _is_there(item)]
        key = f"file_with_{kind}_paths={list_file}"
        if len(missing) == len(items) > 1:
            start = f"image_dir={image_dir}" if kind == "image" and image_dir else "the current folder"
            raise UserError(
                f"{key}: none of its {len(items):,} {kind}s is there, the first is {missing[0]}: paths are relative to "
                f"{start}{'' if image_dir or kind == 'video' else '; image_dir=FOLDER gives another one'}"
            )
        if missing:
            lines = [f"{key}: {len(missing):,} of {len(items):,} {kind}s are not there:", *missing[:_LISTED]]
            more = [f"... and {len(missing) - _LISTED:,} more"] if len(missing) > _LISTED else []
            logger.warning("%s", "\n  ".join([*lines, *more]))


def _is_there(item: Item) -> bool:
    try:
        return os.path.exists(item.path)
    except ValueError:  # a NUL in it
        return False
