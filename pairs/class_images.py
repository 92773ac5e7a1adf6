"""Pictures sorted into one folder per class, also inside a zip archive: `cifar10/test`, `cifar10.zip/test`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from pairs.picture_folders import Folder, OpenImage
from utils.errors import UserError, did_you_mean


@dataclass(frozen=True)
class ClassImages:
    """File number k of `folder` is a picture of class `labels[k]`, which is called `class_names[labels[k]]`."""

    path: str
    folder: Folder
    files: list[str]
    labels: Int64[np.ndarray, " n"]
    class_names: list[str]

    @property
    def images(self) -> list[OpenImage]:
        return [self.folder.opener(name) for name in self.files]


def class_images(path: str | None, *, key: str, class_names: str | Sequence[str] | None = None) -> ClassImages:
    """The pictures below `path`, whose folders are classes.

    Folders called by whole numbers are sorted as numbers (as text, "10" would come before "2"). `class_names` are a
    list, a text file with one name a line, or `imagenet` (OpenAI's 1000, in the order of the folders; of folders called
    by some of 0 to 999, those with these numbers); null takes the folders' names, "_" as space.
    """
    if not path:
        raise UserError(f"{key}: expected a folder (or zip) with a folder of images for each class")
    folder = Folder(path)
    files = [name for name in folder.names() if "/" in name]
    class_of = [name.split("/")[0] for name in files]
    classes = sorted(set(class_of), key=int if all(map(str.isdecimal, class_of)) else str)
    if len(classes) < 2:
        raise UserError(f"{key}={path}: expected a folder of images for each class, found {classes or 'none'}")
    called = _class_names(class_names, classes)
    if len(called) != len(classes):
        raise UserError(f"class_names: {len(called)} names for the {len(classes)} folders of {path}")
    number = {name: i for i, name in enumerate(classes)}
    return ClassImages(path, folder, files, np.array([number[name] for name in class_of], dtype=np.int64), called)


def _class_names(given: str | Sequence[str] | None, classes: list[str]) -> list[str]:
    if given is None:
        return [name.replace("_", " ") for name in classes]
    if given == "imagenet":
        from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES  # late: slow to import

        numbers = [int(name) for name in classes if name.isdecimal()]
        some = len(numbers) == len(classes) < len(IMAGENET_CLASSNAMES) > max(numbers)
        return [IMAGENET_CLASSNAMES[number] for number in numbers] if some else list(IMAGENET_CLASSNAMES)
    return read_lines(given, key="class_names", options=["imagenet"]) if isinstance(given, str) else list(given)


def read_lines(path: str, *, key: str, options: Sequence[str] = ()) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        choice = f"; {did_you_mean(path, options)}expected {', '.join(options)} or a text file" if options else ""
        raise UserError(f"{key}={path}: cannot be read ({error}){choice}") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{key}={path}: an empty file; expected one a line")
    return lines
