"""Pictures sorted into one folder per class, also inside a zip archive: `cifar10/test`, `cifar10.zip/test`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from evaluation.clip.templates import read_lines
from evaluation.subject import OpenImage
from media.images import load_image
from pairs.picture_folders import Folder
from utils.errors import UserError


@dataclass(frozen=True)
class ClassImages:
    """`images[k]` opens a picture of class `labels[k]`, which is called `class_names[labels[k]]`."""

    path: str
    images: Sequence[OpenImage]
    labels: Int64[np.ndarray, " n"]
    class_names: list[str]


def class_images(path: str | None, *, key: str, class_names: str | Sequence[str] | None = None) -> ClassImages:
    """The pictures below `path`, whose folders are classes.

    Folders called by whole numbers are sorted as numbers (as text, "10" would come before "2"). `class_names` are a
    list, a text file with one name a line, or `imagenet` (OpenAI's 1000); null takes the folders' names, "_" as space.
    """
    if not path:
        raise UserError(f"{key}: expected a folder (or zip) with a folder of images for each class")
    root = Folder(path)
    names = [name for name in root.names() if "/" in name]
    folders = _sorted({name.split("/")[0] for name in names})
    if len(folders) < 2:
        raise UserError(f"{key}={path}: expected a folder of images for each class, found {folders or 'none'}")
    called = _class_names(class_names, folders)
    if len(called) != len(folders):
        raise UserError(f"class_names: {len(called)} names for the {len(folders)} folders of {path}")
    number = {folder: i for i, folder in enumerate(folders)}
    labels = np.array([number[name.split("/")[0]] for name in names], dtype=np.int64)
    return ClassImages(path, [partial(_open, root, name) for name in names], labels, called)


def _open(root: Folder, name: str):
    return load_image(root.read(name), f"{Path(root.root) / name}")


def _sorted(folders: set[str]) -> list[str]:
    if all(folder.isdecimal() for folder in folders):
        return sorted(folders, key=int)
    return sorted(folders)


def _class_names(given: str | Sequence[str] | None, folders: list[str]) -> list[str]:
    if given is None:
        return [folder.replace("_", " ") for folder in folders]
    if given == "imagenet":
        from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES  # late: slow to import

        return list(IMAGENET_CLASSNAMES)
    return read_lines(given, key="class_names", options=["imagenet"]) if isinstance(given, str) else list(given)
