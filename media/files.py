"""From what the user names (files, folders, globs, a list in a text file) to the items of a run."""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

from media.image_ids import IdMode, coco_id, id_and_path, with_ids
from media.images import image_suffixes
from media.naming import Found, kept_apart, stem_names
from utils.errors import UserError, check_option
from utils.types import Item

OnePath = str | os.PathLike[str]
Paths = OnePath | list[str]

VIDEO_SUFFIXES = frozenset(
    {".3g2", ".3gp", ".asf", ".avi", ".dv", ".f4v", ".flv", ".gif", ".h264", ".h265", ".hevc", ".m2ts", ".m2v", ".m4v"}
    | {".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".rm", ".rmvb", ".swf", ".ts", ".vob"}
    | {".webm", ".wmv", ".y4m"}
)


def find_videos(paths: Paths | None = None, file_with_paths: OnePath | None = None) -> list[Item]:
    """The videos of a run, each once, in the order given (folders and globs in natural order).

    UserError unless exactly one argument is given, and for a folder, glob or list without videos. A path that
    does not exist is kept: it fails on opening, so that it ends up in the ledger like any other unusable file.
    """
    _check_given(paths, file_with_paths, "video")
    videos, _ = find_media(video_paths=paths, file_with_video_paths=file_with_paths)
    return videos


def find_images(
    paths: Paths | None = None,
    file_with_paths: OnePath | None = None,
    *,
    image_dir: OnePath | None = None,
    id_mode: str = "stem",
) -> list[Item]:
    """`find_videos` for images; `image_dir` and `id_mode` as in `find_media`."""
    _check_given(paths, file_with_paths, "image")
    _, images = find_media(
        image_paths=paths, file_with_image_paths=file_with_paths, image_dir=image_dir, id_mode=id_mode
    )
    return images


def find_media(
    *,
    video_paths: Paths | None = None,
    file_with_video_paths: OnePath | None = None,
    image_paths: Paths | None = None,
    file_with_image_paths: OnePath | None = None,
    image_dir: OnePath | None = None,
    id_mode: str = "stem",
) -> tuple[list[Item], list[Item]]:
    """(videos, images) of a run, either of which may be empty; no two of all of them share a name.

    `image_dir` is what paths in `file_with_image_paths` are relative to, else the current folder. `id_mode` names the
    images, see `media.image_ids`.
    """
    check_option("id_mode", id_mode, get_args(IdMode))
    _check_image_options(image_paths, file_with_image_paths, image_dir, id_mode)
    folder = os.path.expanduser(os.fspath(image_dir or ""))
    videos = _each_once(_found(video_paths, file_with_video_paths, VIDEO_SUFFIXES, "video"))
    if id_mode == "column":
        assert file_with_image_paths is not None
        images = with_ids(*_found_with_ids(Path(file_with_image_paths), folder))
    else:
        found = _found(image_paths, file_with_image_paths, image_suffixes(), "image", folder)
        if id_mode == "stem":
            found = _each_once(found)
            items = kept_apart([*videos, *found], [*stem_names(videos), *stem_names(found)])
            return items[: len(videos)], items[len(videos) :]
        images = with_ids(found, [coco_id(each) for each in found])
    return kept_apart(videos, stem_names(videos), taken=[item.name for item in images]), images


def _check_given(paths: Paths | None, file_with_paths: OnePath | None, kind: str) -> None:
    if paths is None and file_with_paths is None:
        keys = f"{kind}_paths and file_with_{kind}_paths"
        raise UserError(f"expected exactly one of {keys}, found neither: give one of them")


def _check_image_options(
    image_paths: Paths | None, file_with_image_paths: OnePath | None, image_dir: OnePath | None, id_mode: str
) -> None:
    if image_dir is not None and file_with_image_paths is None:
        raise UserError(f"image_dir={image_dir}: belongs to file_with_image_paths, which is not given")
    if image_dir is not None and not os.path.isdir(os.path.expanduser(image_dir)):
        raise UserError(f"image_dir={image_dir}: no such folder")
    if id_mode == "column" and file_with_image_paths is None:
        raise UserError("id_mode=column: expected file_with_image_paths, a text file with lines `id, path`")
    if id_mode != "stem" and image_paths is None and file_with_image_paths is None:
        raise UserError(f"id_mode={id_mode}: names images, and there are none: give image_paths")


def _found(
    paths: Paths | None, file_with_paths: OnePath | None, suffixes: frozenset[str], kind: str, folder: str = ""
) -> list[Found]:
    """What the two keys of one kind name; nothing where neither is given."""
    keys = f"{kind}_paths", f"file_with_{kind}_paths"
    if paths is not None and file_with_paths is not None:
        raise UserError(f"expected exactly one of {keys[0]} and {keys[1]}, found both: give one of them")
    if file_with_paths is not None:
        found = _listed(Path(file_with_paths), suffixes, keys[1], kind, folder)
    elif paths is not None:
        given = [paths] if isinstance(paths, str | os.PathLike) else paths
        found = [each for one in given for each in _expand(os.fspath(one), suffixes, keys[0], kind)]
        if not found:
            raise UserError(f"{keys[0]} is empty: expected at least one {kind}")
    else:
        found = []
    return found


def _listed(list_file: Path, suffixes: frozenset[str], key: str, kind: str, folder: str) -> list[Found]:
    """A list's lines may be all that an argument may be. Names may start or end with spaces, or with "#"."""
    found = []
    for line, where in _lines(list_file, key):
        name = line if os.path.lexists(os.path.join(folder, line)) else line.strip()
        if os.path.lexists(os.path.join(folder, name)) or not name.startswith("#"):
            found += [each._replace(where=where) for each in _expand(name, suffixes, key, kind, folder)]
    if not found:
        raise UserError(f"{key}={list_file}: no paths in it; expected one path a line")
    return found


def _found_with_ids(list_file: Path, folder: str) -> tuple[list[Found], list[str]]:
    lines = [(line, where) for line, where in _lines(list_file, "file_with_image_paths") if line.strip()[0] != "#"]
    if not lines:
        raise UserError(f"file_with_image_paths={list_file}: no paths in it; expected lines `id, path`")
    named = [(*id_and_path(line, where), where) for line, where in lines]
    found = [Found(Path(folder, path), os.path.abspath(folder), where) for _, path, where in named]
    return found, [name for name, _, _ in named]


def _lines(list_file: Path, key: str) -> Iterator[tuple[str, str]]:
    """The lines of a text file that are not blank, and where each stands."""
    try:
        data = list_file.read_bytes()
    except OSError as error:
        raise UserError(f"{key}={list_file}: cannot be read ({error.strerror}); expected a text file") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # what PowerShell's ">" writes
        text = data.decode("utf-16", errors="replace")
    else:
        text = data.decode("utf-8-sig", errors="surrogateescape")  # any bytes are a valid file name on Linux
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines would also cut at \x0b, \x85 ...
        if line.strip():
            yield line.removesuffix("\r"), f"{list_file}, line {number}: "


def _expand(given: str, suffixes: frozenset[str], key: str, kind: str, folder: str = "") -> Iterator[Found]:
    """One argument: an existing file or folder, else a glob, else a path that is missing; relative to `folder`."""
    if not given.strip():
        raise UserError(f"{key}: expected a path, found an empty one")
    path = os.path.join(folder, given)
    if given.startswith("~") and not os.path.lexists(path):
        given = path = os.path.expanduser(given)  # the shell does not do this inside quotes
    if os.path.isdir(path):
        inside = list(_walk(path, suffixes))
    elif os.path.lexists(path) or not glob.has_magic(given):
        yield Found(Path(path), os.path.dirname(os.path.abspath(path)))
        return
    else:
        inside = list(_matches(given, suffixes, folder))
    if not inside:
        what = "folder" if os.path.isdir(path) else "pattern"
        raise UserError(
            f"{key}={given}: no {kind} found by this {what}; expected files ending in {' '.join(sorted(suffixes))}"
        )
    yield from inside


def _walk(folder: str, suffixes: frozenset[str]) -> Iterator[Found]:
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
                yield Found(Path(where, name), os.path.abspath(folder))


def _matches(pattern: str, suffixes: frozenset[str], folder: str) -> Iterator[Found]:
    """Files matched by a glob (`**` for any depth), searching matched folders too, as the shell's user expects."""
    fixed = os.path.dirname(pattern[: re.search(r"[*?[]", pattern).start()])  # type: ignore[union-attr]
    root = os.path.abspath(os.path.join(folder, fixed))
    for name in sorted(glob.glob(pattern, root_dir=folder or None, recursive=True), key=_natural):
        match = os.path.join(folder, name)
        if os.path.isdir(match):
            if "**" not in pattern:  # `**` names each file itself
                yield from (found._replace(root=root) for found in _walk(match, suffixes))
        elif Path(match).suffix.lower() in suffixes or match.endswith(Path(pattern).suffix or "\0"):
            yield Found(Path(match), root)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts `clip2` before `clip10`."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), part) if part.isascii() and part.isdigit() else (1, 0, part) for part in parts]


def _each_once(found: Iterable[Found]) -> list[Found]:
    first = {}
    for each in found:
        first.setdefault(os.path.realpath(each.path), each)
    return list(first.values())
