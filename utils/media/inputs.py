"""From what the user names (files, folders, globs, a list in a text file) to the items of a run."""

import glob
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError
from utils.types import Item

VIDEO_SUFFIXES = frozenset(
    {".3g2", ".3gp", ".asf", ".avi", ".dv", ".f4v", ".flv", ".gif", ".h264", ".h265", ".hevc", ".m2ts", ".m2v", ".m4v"}
    | {".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".rm", ".rmvb", ".swf", ".ts", ".vob"}
    | {".webm", ".wmv", ".y4m"}
)


class _Found(NamedTuple):
    path: Path
    root: str  # absolute folder that the name of this item is relative to, unless other inputs lie further up


def find_videos(
    paths: str | os.PathLike[str] | list[str] | None = None,
    file_with_paths: str | os.PathLike[str] | None = None,
) -> list[Item]:
    """The videos of a run, each once, in the order given (folders and globs in natural order).

    UserError unless exactly one argument is given, and for a folder, glob or list without videos. A path that
    does not exist is kept: it fails on opening, so that it ends up in the ledger like any other unusable file.
    """
    return find_items(paths, file_with_paths, suffixes=VIDEO_SUFFIXES, kind="video")


def find_items(
    paths: str | os.PathLike[str] | list[str] | None,
    file_with_paths: str | os.PathLike[str] | None,
    *,
    suffixes: frozenset[str],
    kind: str,
) -> list[Item]:
    """`find_videos` for any kind of file: `suffixes` (lower case, with dot) are those searched for in folders."""
    keys = f"{kind}_paths", f"file_with_{kind}_paths"
    if (paths is None) == (file_with_paths is None):
        found = "both" if paths is not None else "neither"
        raise UserError(f"expected exactly one of {keys[0]} and {keys[1]}, found {found}: give one of them")
    if file_with_paths is not None:
        key, given = keys[1], _lines(Path(file_with_paths), key=keys[1])
    else:
        assert paths is not None
        key, given = keys[0], [paths] if isinstance(paths, str | os.PathLike) else paths
    found = [each for one in given for each in _expand(os.fspath(one), suffixes, key, kind)]
    if not found:
        raise UserError(f"{key} is empty: expected at least one {kind}")
    return _named(_each_once(found))


def _lines(list_file: Path, *, key: str) -> list[str]:
    """The paths in a text file, one a line. Names may start or end with spaces, so a line is first tried as it is."""
    try:
        data = list_file.read_bytes()
    except OSError as error:
        raise UserError(f"{key}={list_file}: cannot be read ({error.strerror}); expected a text file") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # what PowerShell's ">" writes
        text = data.decode("utf-16", errors="replace")
    else:
        text = data.decode("utf-8-sig", errors="surrogateescape")  # any bytes are a valid file name on Linux
    lines = (line.removesuffix("\r") for line in text.split("\n"))  # splitlines would also cut at \x0b, \x85 ...
    kept = [line if os.path.lexists(line) else line.strip() for line in lines if line.strip()]
    kept = [line for line in kept if os.path.lexists(line) or not line.startswith("#")]
    if not kept:
        raise UserError(f"{key}={list_file}: no paths in it; expected one path a line")
    return kept


def _expand(given: str, suffixes: frozenset[str], key: str, kind: str) -> Iterator[_Found]:
    """One argument: an existing file or folder, else a glob, else a path that is missing."""
    if not given.strip():
        raise UserError(f"{key}: expected a path, found an empty one")
    if given.startswith("~") and not os.path.lexists(given):
        given = os.path.expanduser(given)  # the shell does not do this inside quotes
    if os.path.isdir(given):
        inside = list(_walk(given, suffixes))
    elif os.path.lexists(given) or not glob.has_magic(given):
        yield _Found(Path(given), os.path.dirname(os.path.abspath(given)))
        return
    else:
        inside = list(_matches(given, suffixes))
    if not inside:
        what = "folder" if os.path.isdir(given) else "pattern"
        raise UserError(
            f"{key}={given}: no {kind} found by this {what}; expected files ending in {' '.join(sorted(suffixes))}"
        )
    yield from inside


def _walk(folder: str, suffixes: frozenset[str]) -> Iterator[_Found]:
    """Files below `folder` by suffix. Hidden ones are left out: macOS writes `._clip.mp4`, which is no video."""
    seen = set()
    for where, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=_natural)
        for name in sorted(files, key=_natural):
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes:
                yield _Found(Path(where, name), os.path.abspath(folder))


def _matches(pattern: str, suffixes: frozenset[str]) -> Iterator[_Found]:
    """Files matched by a glob (`**` for any depth), searching matched folders too, as the shell's user expects."""
    fixed = os.path.dirname(pattern[: re.search(r"[*?[]", pattern).start()])  # type: ignore[union-attr]
    for match in sorted(glob.glob(pattern, recursive=True), key=_natural):
        if os.path.isdir(match):
            if "**" not in pattern:  # `**` names each file itself
                yield from (found._replace(root=os.path.abspath(fixed)) for found in _walk(match, suffixes))
        elif Path(match).suffix.lower() in suffixes or match.endswith(Path(pattern).suffix or "\0"):
            yield _Found(Path(match), os.path.abspath(fixed))


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts `clip2` before `clip10`."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), part) if part.isascii() and part.isdigit() else (1, 0, part) for part in parts]


def _each_once(found: Iterable[_Found]) -> list[_Found]:
    first = {}
    for each in found:
        first.setdefault(os.path.realpath(each.path), each)
    return list(first.values())


def _named(found: list[_Found]) -> list[Item]:
    """Name = sub folders below the common root + stem; where that is taken, the ending too, then a number."""
    try:
        root = os.path.commonpath([each.root for each in found])
    except ValueError:  # inputs on two Windows drives
        root = ""
    names = [_relative(each.path, root) for each in found]
    counts = Counter(map(_folded, names))
    used = {name for name, count in counts.items() if count == 1}  # who is alone keeps its name
    for k, each in enumerate(found):
        if counts[_folded(names[k])] == 1:
            continue
        ending = each.path.suffix.lstrip(".")
        names[k] = name = f"{names[k]}_{ending}" if ending else names[k]
        number = 1
        while _folded(names[k]) in used:
            number += 1
            names[k] = f"{name}_{number}"
        used.add(_folded(names[k]))
    return [Item(path=each.path, name=name) for each, name in zip(found, names, strict=True)]


def _relative(path: Path, root: str) -> str:
    folder = os.path.dirname(os.path.abspath(path))
    below = os.path.relpath(folder, root) if root else os.curdir
    return path.stem if below == os.curdir else f"{Path(below).as_posix()}/{path.stem}"


def _folded(name: str) -> str:
    """What a case-insensitive, Unicode-normalising file system compares."""
    return unicodedata.normalize("NFC", name).casefold()
