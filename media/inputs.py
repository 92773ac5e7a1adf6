"""From what the user names (files, folders, globs, lists in text files, texts) to the items of a run."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar, get_args

from media.images import image_suffixes
from media.missing import tell_missing
from media.naming import Found, IdMode, coco_id, each_once, id_and_path, kept_apart, stem_names, with_ids
from media.text_files import read_lines
from media.texts import find_texts
from utils.errors import UserError, check_option, check_path, did_you_mean
from utils.types import Item

T = TypeVar("T")
OnePath = str | os.PathLike[str]
Paths = OnePath | list[str]

VIDEO_SUFFIXES = frozenset(
    {".3g2", ".3gp", ".asf", ".avi", ".dv", ".f4v", ".flv", ".gif", ".h264", ".h265", ".hevc", ".m2ts", ".m2v", ".m4v"}
    | {".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".rm", ".rmvb", ".swf", ".ts", ".vob"}
    | {".webm", ".wmv", ".y4m"}
)
_LONGEST_NAME = 8192  # characters of a line; systems take 4096 bytes at most
_DEEPEST_PATTERN = 200  # Python's glob goes one call deeper with every folder


def find_inputs(
    *,
    video_paths: Paths | None = None,
    file_with_video_paths: OnePath | None = None,
    image_paths: Paths | None = None,
    file_with_image_paths: OnePath | None = None,
    image_dir: OnePath | None = None,
    id_mode: str = "stem",
    texts: str | list[str] | None = None,
    file_with_texts: OnePath | None = None,
    annotations: OnePath | None = None,
    shard: str | None = None,
) -> dict[str, list[Item]]:
    """The items of a run by kind, "video", "image" and "text", in the order in which they are worked on.

    Files come in the order given (folders and globs in natural order), each once; what names one a second time, a
    symbolic link also, is told in one line. A file that does not exist is kept: it fails on opening, so that it ends up
    in the ledger like any other unusable file (of lists they are counted here: `media.missing`); an argument whose
    folder does not exist, or that has no ending of its kind, is a mistyped one (UserError). No video has the name of an
    image; `id_mode` names the images, see `media.naming`. `image_dir` is what paths in `file_with_image_paths` are
    relative to, else the current folder. `shard="i/n"` takes every n-th item of each kind from the i-th on.

    UserError where there is nothing to work on, also for a folder, glob or list without files of its kind.
    """
    video_list, image_list, image_dir, text_file, captions = _at_home(
        file_with_video_paths=file_with_video_paths,
        file_with_image_paths=file_with_image_paths,
        image_dir=image_dir,
        file_with_texts=file_with_texts,
        annotations=annotations,
    )
    _check_image_options(image_paths, image_list, image_dir, id_mode)
    videos = each_once("video", _found("video", video_paths, video_list, VIDEO_SUFFIXES))
    if id_mode == "column":
        assert image_list is not None
        images, ids = _found_with_ids(Path(image_list), image_dir or "")
    else:
        images = _found("image", image_paths, image_list, image_suffixes(), image_dir or "")
        ids = [coco_id(each) for each in images] if id_mode == "coco_int" else None
    if ids is None:
        images = each_once("image", images)
        named = kept_apart([*videos, *images], [*stem_names(videos), *stem_names(images)])
        found = {"video": named[: len(videos)], "image": named[len(videos) :]}
    else:
        named = with_ids(images, ids)
        found = {"video": kept_apart(videos, stem_names(videos), taken=[item.name for item in named]), "image": named}
    found["text"] = find_texts(texts, text_file, captions)
    if not any(found.values()):
        raise UserError(
            "nothing to work on: expected at least one of video_paths, file_with_video_paths, image_paths, "
            "file_with_image_paths (for features also texts, file_with_texts, annotations)"
        )
    selected = {kind: list(select(items, shard)) for kind, items in found.items() if items}
    tell_missing(selected, {"video": video_list, "image": image_list}, image_dir)
    return selected


def find_images(paths: Paths | None = None, file_with_paths: OnePath | None = None) -> list[Item]:
    """The images among a run's inputs. UserError unless exactly one argument is given."""
    if paths is None and file_with_paths is None:
        raise UserError(
            "expected exactly one of image_paths and file_with_image_paths, found neither: give one of them"
        )
    return find_inputs(image_paths=paths, file_with_image_paths=file_with_paths)["image"]


def parse_shard(text: str) -> tuple[int, int]:
    """ "3/8" -> (3, 8): the third of eight parts. Raises UserError for anything else."""
    match = re.fullmatch(r"\s*([0-9]+)\s*/\s*([0-9]+)\s*", str(text))
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"shard={text}: expected i/n with 1 <= i <= n, for example 1/8 ... 8/8")
    return int(match[1]), int(match[2])


def select(items: Sequence[T], shard: str | None) -> Sequence[T]:
    """Every n-th item from the i-th on, so that long and short ones, which often lie together, spread evenly.

    For clusters that start n jobs and tell each its number.
    """
    if shard is None:
        return items
    number, count = parse_shard(shard)
    return items[number - 1 :: count]


def _at_home(**paths: OnePath | None) -> list[str | None]:
    """With `~` as the home folder: the shell does not expand it in `KEY=~/x` or inside quotes."""
    for key, path in paths.items():
        check_path(key, path)
    return [None if path is None else os.path.expanduser(os.fspath(path)) for path in paths.values()]


def _check_image_options(image_paths: Paths | None, image_list: str | None, folder: str | None, id_mode: str) -> None:
    check_option("id_mode", id_mode, get_args(IdMode))
    if folder is not None and image_list is None:
        raise UserError(f"image_dir={folder}: belongs to file_with_image_paths, which is not given")
    if folder is not None and not os.path.isdir(folder):
        raise UserError(f"image_dir={folder}: no such folder")
    if id_mode == "column" and image_list is None:
        raise UserError("id_mode=column: expected file_with_image_paths, a text file with lines `id, path`")
    if id_mode != "stem" and image_paths is None and image_list is None:
        raise UserError(f"id_mode={id_mode}: names images, and there are none: give image_paths")


def _found(
    kind: str, paths: Paths | None, list_file: str | None, suffixes: frozenset[str], folder: str = ""
) -> list[Found]:
    """What the two keys of one kind name; nothing where neither is given."""
    keys = f"{kind}_paths", f"file_with_{kind}_paths"
    if paths is not None and list_file is not None:
        raise UserError(f"expected exactly one of {keys[0]} and {keys[1]}, found both: give one of them")
    if list_file is not None:
        return _listed(Path(list_file), suffixes, keys[1], kind, folder)
    if paths is None:
        return []
    given = paths if isinstance(paths, list | tuple) else [paths]
    for one in given:
        if not isinstance(one, str | os.PathLike):
            raise UserError(f"{keys[0]}={one}: expected a path, or a list of paths")
    for one in given:
        _refuse_mistyped(keys[0], os.fspath(one), suffixes)
    found = [each for one in given for each in _expand(os.fspath(one), suffixes, keys[0], kind)]
    if not found:
        raise UserError(f"{keys[0]} is empty: expected at least one {kind}")
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
        for number, line in enumerate(read_lines(list_file, longest=_LONGEST_NAME), start=1):
            if line.strip():
                yield line, f"{list_file}, line {number}: "
    except OSError as error:
        raise UserError(f"{key}={list_file}: cannot be read ({error.strerror}); expected a text file") from error
    except ValueError as error:
        raise UserError(f"{key}={list_file}: {error}") from error


def _expand(given: str, suffixes: frozenset[str], key: str, kind: str, folder: str = "") -> Iterator[Found]:
    """One argument: an existing file or folder, else a glob, else a path that is missing; relative to `folder`."""
    if not given.strip():
        raise UserError(f"{key}: expected a path, found an empty one")
    path = os.path.join(folder, given)
    if given.startswith("~") and not os.path.lexists(path):
        given = path = os.path.expanduser(given)
    if os.path.isdir(path):
        inside = list(_walk(path, suffixes))
    elif os.path.lexists(path) or not glob.has_magic(given) or given.count("/") > _DEEPEST_PATTERN:
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


def _refuse_mistyped(key: str, given: str, suffixes: frozenset[str]) -> None:
    """UserError for an argument that is not there and cannot be one file that happens to be missing."""
    path = given if os.path.lexists(given) else os.path.expanduser(given)
    if glob.has_magic(given) or not given.strip():
        return
    try:
        os.lstat(path)
        return
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError):  # no name that a file can have: it costs itself alone
        return
    missing = path.rstrip("/")
    if Path(path).suffix.lower() in suffixes:
        missing = os.path.dirname(path)
        if not missing or os.path.lexists(missing):
            return
    while (parent := os.path.dirname(missing)) and not os.path.lexists(parent):
        missing = parent
    try:
        beside = os.listdir(os.path.dirname(missing) or os.curdir)
    except (OSError, ValueError):
        beside = []
    hint = did_you_mean(os.path.basename(missing), beside)
    raise UserError(f"{key}={given[:200]}: no file or folder {missing[:200]}; {hint}nothing was done")
