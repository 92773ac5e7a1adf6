"""Different settings never share a place: what results in a folder say of theirs, compared with those of a run."""

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from store.record import Record, setting_changes
from utils.errors import UserError

_KINDS = {"video": "video", "image": "image", "text": "texts"}  # by what is noted of the source
LOOKED_AT = 256  # results, to find one of the same kind: one folder may hold images and videos
_OF_ITEMS = "damage"  # a setting that single results may differ in


def record_kind(record: Record) -> str:
    """ "video", "image", "text"; empty where nothing tells."""
    if record.source.texts_sha256:
        return "text"
    return next((kind for kind, key in _KINDS.items() if key in record.provenance), "")


def difference(there: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """ "sampling.fps: 1 -> 2" where results of the settings `asked` would take the place of those that are there.

    Empty where these have what is asked for, or lose nothing: `grid` beside `global`, say, is all of it and more.
    """
    was, now = ({key: value for key, value in each.items() if key != _OF_ITEMS} for each in (there, asked))
    return "" if _is_in(was, now) or _is_in(now, was) else setting_changes(was, now)


def as_text(settings: Mapping[str, Any]) -> str:
    """The same for runs that may fill one folder together."""
    return json.dumps({key: value for key, value in settings.items() if key != _OF_ITEMS}, sort_keys=True)


def _is_in(few: Mapping[str, Any], many: Mapping[str, Any]) -> bool:
    return all(key in many and many[key] == value for key, value in few.items())


def check_place(place: Path, found: Iterable[Record], kind: str, settings: Mapping[str, Any]) -> None:
    """UserError where the first of this kind among the records of `place` has other settings.

    Looks at a few of them, however many there are: the others are looked at as the run comes to them.
    """
    for record in islice(found, LOOKED_AT):
        if record_kind(record) in ("", kind):
            if changes := difference(record.settings, settings):
                raise other_settings(place, changes)
            return


def other_settings(place: Path, changes: str) -> UserError:
    return UserError(
        f"{place}: holds results of other settings (there -> asked for: {changes}); none is replaced: choose another "
        "output_path, or give overwrite=true to have them done again"
    )


def at_work_there(place: Path, holder: str, theirs: str, settings: Mapping[str, Any]) -> UserError:
    """`theirs`: as `as_text` gives it."""
    changes = setting_changes(json.loads(theirs or "{}"), json.loads(as_text(settings)))
    return UserError(
        f"{place}: {holder} is saving results of other settings there now (there -> asked for: {changes}): choose "
        "another output_path, or wait until it has ended"
    )
