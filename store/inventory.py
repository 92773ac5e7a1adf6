"""What lies below a folder of results: which files belong to which, and what belongs to nothing."""

import errno
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from store.checks import Finding, Kind
from store.forms import Form, Gathers
from store.journal import JOURNAL
from store.locks import holders_and_left
from store.parts import PARTS
from store.record import META, PREDICTIONS, setting_changes
from store.verify import Checked
from utils import part_files
from utils.errors import UserError, some

_OURS = (".npy", ".pkl", ".npz", ".own.hdf5", ".vtt", PREDICTIONS)  # endings of what the forms write
_OF_WEIGHTS = ("weights_sha256", "model_name", "captioner_sha256", "feature_type")


@dataclass(frozen=True)
class Inventory:
    """The files below a folder, or the one file given."""

    metas: list[Path] = field(default_factory=list)
    archives: list[Path] = field(default_factory=list)  # files of whole folders, journals
    others: list[Path] = field(default_factory=list)  # named as our results are
    temporary: list[Path] = field(default_factory=list)  # part files, locks that nobody holds
    unfinished: list[Path] = field(default_factory=list)  # of long items (`store.parts`)
    holders: list[str] = field(default_factory=list)  # "host1, process 4711", who works there now


def take_inventory(path: Path, forms: Sequence[Form]) -> Inventory:
    """Looks at names only. UserError where there is nothing of ours."""
    gathered = tuple(form.gathered_ending for form in forms if isinstance(form, Gathers))
    found = Inventory()
    if path.is_file():
        (found.metas if path.name.endswith(META) else found.archives).append(path)
        return found
    for folder in Path(os.path.abspath(path)).parents[:2]:  # `path` may be one model's
        found.holders.extend(holders_and_left(folder)[0])
    for where, folders, names in os.walk(path):
        folders.sort()
        folder = Path(where)
        if ".locks" in folders:
            folders.remove(".locks")
            holders, left = holders_and_left(folder)
            found.holders.extend(holders)
            found.temporary.extend(left)
        if PARTS in folders:
            folders.remove(PARTS)
            found.unfinished.extend(sorted((folder / PARTS).iterdir()))
        for name in sorted(names):
            if name.endswith(META):
                found.metas.append(folder / name)
            elif name == JOURNAL or name.endswith(gathered):
                found.archives.append(folder / name)
            elif part_files.NAME.fullmatch(name) and not _is_being_written(folder / name):
                found.temporary.append(folder / name)
            elif name.endswith(_OURS):
                found.others.append(folder / name)
    if not any((found.metas, found.archives, found.others, found.temporary)):
        endings = ", ".join(f"*{ending}" for ending in (META, *gathered))
        raise UserError(f"input_path={path}: expected a folder with saved features ({endings}), found none there")
    return found


def _is_being_written(path: Path) -> bool:
    """Whoever writes it holds a lock on it."""
    try:
        with path.open("rb") as file:
            if os.name == "posix":
                import fcntl

                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:  # finished just now
        return True
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    return False


def stray_findings(inventory: Inventory, results: Sequence[Checked]) -> Iterator[Finding]:
    """Files that no meta file lists, and what killed processes left."""
    listed = {file for each in results for file in each.files}
    unreadable = tuple(str(each.path).removesuffix(META) for each in results if not each.settings)
    for path in inventory.others:
        if path not in listed and not (unreadable and str(path).startswith(unreadable)):
            yield Finding("no meta file", str(path), "no meta file lists it: not complete, or not ours")
    for path in inventory.unfinished:
        yield Finding(
            "unfinished", str(path), "the first rows of a long item: the command that began it goes on from there"
        )
    for path in inventory.temporary:
        what = "the lock" if path.parent.name == ".locks" else "half a file"
        yield Finding("left over", str(path), f"{what} of a process that was killed")


def common_findings(results: Sequence[Checked]) -> Iterator[Finding]:
    """What shows only when results of one folder are compared: doubles, and other settings or weights."""
    homes: dict[tuple[Path, str], list[Checked]] = defaultdict(list)
    for each in results:
        if each.settings:
            homes[_home(each), each.kind].append(each)
    for together in homes.values():
        yield from _odd_ones_out(together)
        yield from _doubles(together)


def _home(each: Checked) -> Path:
    """The folder of one model's results."""
    return each.path if not each.path.name.endswith(META) else each.path.parents[each.item.count("/")]


def _odd_ones_out(together: Sequence[Checked]) -> Iterator[Finding]:
    """Those whose settings are not those of most."""
    counts = Counter(each.settings for each in together)
    (usual, number), *_ = counts.most_common(1)
    said: dict[str, tuple[Kind, str]] = {}
    for each in together:
        if each.settings == usual:
            continue
        if each.settings not in said:
            most, its = json.loads(usual), json.loads(each.settings)
            weights = any(most.get(key) != its.get(key) for key in _OF_WEIGHTS)
            changes = setting_changes(most, its)
            said[each.settings] = (
                "other weights" if weights else "other settings",
                f"not as the {number:,} others: {changes}",
            )
        kind, text = said[each.settings]
        yield Finding(kind, str(each.path), text if each.path.name.endswith(META) else f"{each.item}: {text}")


def _doubles(together: Sequence[Checked]) -> Iterator[Finding]:
    sources: dict[str, list[Checked]] = defaultdict(list)
    features: dict[str, list[Checked]] = defaultdict(list)
    for each in together:
        if each.source is not None and not each.source.texts_sha256:
            sources[os.path.abspath(each.source.path)].append(each)
            features[each.features_sha256].append(each)
    for source, those in sources.items():
        if len(those) > 1:
            yield Finding("same source", source, f"saved {len(those)} times: as {some([each.item for each in those])}")
    features.pop("", None)
    for those in features.values():
        if len({os.path.abspath(each.source.path) for each in those if each.source}) > 1:
            names = some([each.item for each in those])
            yield Finding("same features", str(those[0].path), f"{len(those)} sources, the same features: {names}")
