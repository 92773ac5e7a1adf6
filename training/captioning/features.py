"""Stored features of images, read when they are asked for: grids (n, c) for a captioner, embeddings (e,) for rewards.

Understood are a folder of `<image>.npz`, a folder of `<image>_grid.npy` and `<image>_clip.npy`, one HDF5 file, and what
CLIP-ViL writes: `<image>.npz` with `feat` (14, 14, c), `<image>.npy` (e,). A dict of arrays does as well.
"""

import os
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from jaxtyping import Float, Float32

from media.caption_files import names_of
from pairs.annotations import AnnotatedImage
from store.hdf5 import FOLDER, RECORD
from store.record import META, parse_record, read_record
from utils.errors import UserError, some

_HDF5_ENDINGS = (".h5", ".hdf5")


class ImageFeatures(Protocol):
    """Image id -> grid (n, c), float16 or float32 (n may differ, c may not), or embedding (e,), float32 of length 1."""

    def __getitem__(self, image_id: str, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Kind:
    """What is looked for: `keys` in .npz files and HDF5 groups, else files that end in one of `endings`."""

    title: str
    keys: tuple[str, ...]
    endings: tuple[str, ...]
    shaped: Callable[[np.ndarray], np.ndarray]  # ValueError for what cannot be one


def as_grid(array: np.ndarray) -> Float[np.ndarray, "n c"]:
    """(n, c) from (n, c), (1, n, c) or a square map (i, i, c), row-major."""
    if array.ndim == 3 and (len(array) == 1 or array.shape[0] == array.shape[1]):
        array = array.reshape(-1, array.shape[2])
    if array.ndim != 2 or not array.size or array.dtype.kind != "f":
        raise ValueError(f"expected a grid (n, c), found {array.dtype} {array.shape}")
    return array


def as_embedding(array: np.ndarray) -> Float32[np.ndarray, " e"]:
    """(e,) float32 of length 1 from (e,) or (1, e)."""
    if array.ndim == 2 and len(array) == 1:
        array = array[0]
    if array.ndim != 1 or array.dtype.kind != "f":
        raise ValueError(f"expected one embedding (e,), found {array.dtype} {array.shape}")
    norm = np.linalg.norm(array.astype(np.float64))
    if not 0 < norm < np.inf:
        raise ValueError(f"an embedding has the length {norm}")
    return (array / norm).astype(np.float32)


GRID = Kind("grids", ("features", "grid", "feat"), ("_grid.npy",), as_grid)


def embedding_kind(feature_type: str | None) -> Kind:
    """Embeddings stand under the family of their model: "clip", "open_clip" or any other."""
    families = [feature_type] if feature_type else ["clip", "open_clip", "transformers"]
    endings = (*(f"_{family}.npy" for family in families), ".npy")
    return Kind("embeddings", ("g_feature", *families), endings, as_embedding)


EMBEDDING = embedding_kind(None)


def _feature_type(path: Path) -> str | None:
    """What the extractor noted about the first item in a folder or HDF5 file; None where another tool made it."""
    if path.is_dir():
        record = next((record for meta in path.rglob(f"*{META}") if (record := read_record(meta))), None)
        return record.settings.get("feature_type") if record else None
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs.get(FOLDER, "")).partition("/")[0] or None
    except OSError:
        return None  # `open_features` says so


def open_features(path: Path, images: Iterable[AnnotatedImage], kind: Kind) -> "FeatureFolder | FeatureFile":
    """UserError unless all of these images have features of this kind in this folder or HDF5 file."""
    if kind is EMBEDDING:
        kind = embedding_kind(_feature_type(path))
    if path.is_dir():
        return FeatureFolder(path, images, kind)
    if path.is_file() and path.suffix in _HDF5_ENDINGS:
        return FeatureFile(path, images, kind)
    raise UserError(f"{path}: expected a folder of {kind.title} or an HDF5 file ({', '.join(_HDF5_ENDINGS)}) of them")


class FeatureFolder:
    """A file an image, found by the image's id, or another of its names (`names_of`).

    Of the folder itself, or of the one below it that holds all: the extractor's `output_path` has `clip/RN50` in it.
    """

    def __init__(self, root: Path, images: Iterable[AnnotatedImage], kind: Kind) -> None:
        self._root, self._kind = root, kind
        endings = (".npz", *kind.endings)
        # One walk: to ask for each of a hundred thousand files takes minutes on network disks.
        there = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.name.endswith(endings)}
        common = os.path.commonpath([os.path.dirname(name) for name in there]) if there else ""
        places = [
            (folder, ending) for folder in dict.fromkeys(("", f"{common}/" if common else "")) for ending in endings
        ]
        self._files = _located(
            images,
            lambda name: next((place for a, b in places if (place := f"{a}{name}{b}") in there), None),
            f"{root}: no {kind.title} of",
            there,
        )

    def __getitem__(self, image_id: str) -> np.ndarray:
        path = self._root / self._files[image_id]
        try:
            content = np.load(path, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return self._kind.shaped(content)
            with content:
                return self._kind.shaped(content[_key(content.files, self._kind)])
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: not usable as {self._kind.title} ({error})") from error

    def settings(self, image_id: str) -> dict[str, Any]:
        """What the extractor noted about this image's features (model, pixels ...); {} where another tool made them."""
        path = self._root / self._files[image_id]
        ending = next(ending for ending in (".npz", *self._kind.endings) if path.name.endswith(ending))
        record = read_record(path.with_name(path.name.removesuffix(ending) + META))
        return record.settings if record else {}


class FeatureFile:
    """One HDF5 file: a data set an image, or a group an image with a data set for each kind of feature."""

    def __init__(self, path: Path, images: Iterable[AnnotatedImage], kind: Kind) -> None:
        self._path, self._kind = path, kind
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise UserError(f"{path}: not a readable HDF5 file ({error})") from error
        there = set(self._file)
        self._names = _located(
            images,
            lambda name: name if name in there or ("/" in name and name in self._file) else None,
            f"{path}: no {kind.title} of",
            there,
        )

    def __getitem__(self, image_id: str) -> np.ndarray:
        name = self._names[image_id]
        try:
            node: Any = self._file[name]
            if isinstance(node, h5py.Group):
                node = node[_key(list(node), self._kind)]
            return self._kind.shaped(node[()])
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(f"{self._path}, {name}: not usable as {self._kind.title} ({error})") from error

    def settings(self, image_id: str) -> dict[str, Any]:
        """As those of a folder."""
        record = parse_record(str(self._file[self._names[image_id]].attrs.get(RECORD, "")))
        return record.settings if record else {}


def _key(keys: Sequence[str], kind: Kind) -> str:
    found = next((key for key in kind.keys if key in keys), None)
    if found is None:
        raise ValueError(f"expected one of {', '.join(kind.keys)} in it, found {', '.join(keys) or 'nothing'}")
    return found


def _located(
    images: Iterable[AnnotatedImage], find: Callable[[str], str | None], problem: str, there: Collection[str]
) -> Mapping[str, str]:
    """Image id -> where it is. UserError with the number and the first of those that are nowhere, and what is `there`.

    The name alone comes last: `train/1.jpg` and `val/1.jpg` have the same. UserError if it is two images' after all.
    """
    found, missing = {}, []
    for image in images:
        names = names_of(image.id, image.file_path)
        place = next(filter(None, map(find, names)), None)
        if place is None:
            missing.append(" or ".join(dict.fromkeys((names[0], names[-1]))))
        else:
            found[image.id] = place
    if missing:
        example = f"what is there is like {min(there)}" if there else "none is there"
        raise UserError(f"{problem} {len(missing)} of {len(missing) + len(found)} images: {some(missing)}; {example}")
    owners: dict[str, str] = {}
    for image_id, place in found.items():
        if owners.setdefault(place, image_id) != image_id:
            raise UserError(f"{place}: features of one file would serve images {owners[place]} and {image_id}")
    return found
