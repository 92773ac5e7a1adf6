"""Labels on the disk: `<name>.json` with words and images, `<name>_label.h5` with the rows.

The layout of ImageCaptioning.pytorch, which CLIP-ViL and others share: files of either tool are read by the other.
Ours also hold the complete captions, as metrics need them (`captions` of each image in the json).
"""

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from models.captioner.vocabulary import Vocabulary
from pairs.annotations import AnnotatedImage
from pairs.labels import Labels
from store.files import atomic_write, encode, remove
from store.provenance import file_sha256
from utils.errors import UserError, first_line, given_path

NAME = "captions"


def write_hdf5(labels: Labels, folder: Path) -> list[Path]:
    """All uint32: `labels` (m, t), `label_length` (m,), (n,) `label_start_ix`, `label_end_ix`, 1-based inclusive."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["labels"] = labels.rows
        file["label_length"] = (labels.rows > 0).sum(axis=1).astype(np.uint32)
        file["label_start_ix"] = (labels.start + 1).astype(np.uint32)
        file["label_end_ix"] = labels.end.astype(np.uint32)
    words, rows = folder / f"{NAME}.json", folder / f"{NAME}_label.h5"
    _write(rows, buffer.getvalue())
    _write(words, encode(_described(labels) | {"rows_sha256": file_sha256(rows)}))
    return [words, rows]


def write_json(labels: Labels, folder: Path) -> list[Path]:
    """Everything in one file: each image has its `labels`, lists of numbers without the zeros."""
    content = _described(labels)
    for index, image in enumerate(content["images"]):
        image["labels"] = [row[row > 0].tolist() for row in labels.of_image(index)]
    words, rows = folder / f"{NAME}.json", folder / f"{NAME}_label.h5"
    _write(words, encode(content | {"max_length": labels.max_length}))
    remove(rows)  # of an earlier run: it would be taken for this one's
    return [words]


def open_labels(labels_path: str | None) -> Labels:
    """What option `labels_path` names: see `find_labels`."""
    words, rows = find_labels(given_path("labels_path", labels_path, "the folder of caption_labels, or its json"))
    return read_labels(rows, words)


def find_labels(path: Path) -> tuple[Path, Path | None]:
    """The files of a folder of ours, or of `<name>.json`: the json, and the HDF5 file where there is one."""
    words = path / f"{NAME}.json" if path.is_dir() else path
    if not words.is_file():
        raise UserError(
            f"labels_path={path}: no {words.name} there; "
            "make it: python main.py --config-name caption_labels annotations=FILE output_path=FOLDER"
        )
    rows = words.with_name(f"{words.stem}_label.h5")
    return words, rows if rows.is_file() else None


def read_labels(rows_path: Path | None, words_path: Path) -> Labels:
    """Files of this or the other tool; `rows_path` null takes the rows that the json itself holds (`write_json`)."""
    try:
        content = json.loads(words_path.read_text(encoding="utf-8"))
        vocabulary = Vocabulary.of_numbered(content["ix_to_word"])
        images = [_image(entry) for entry in content["images"]]
        rows, start, end = _read_rows(rows_path) if rows_path else _rows_of(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        beside = f" and the rows in {rows_path.name}" if rows_path else f", no {words_path.stem}_label.h5 beside it"
        found = f"{type(error).__name__}: {first_line(error)}"  # a repr can hold the whole file
        raise UserError(
            f"{words_path}: expected the labels' json with ix_to_word and images{beside} ({found}); "
            "annotations become labels with --config-name caption_labels"
        ) from error
    try:
        labels = Labels(vocabulary, images, rows, start, end)
    except ValueError as error:  # files of two runs would train without a complaint, on captions of other images
        raise UserError(f"{words_path}: {error}: not of the same run") from error
    if rows_path and content.get("rows_sha256") not in (None, file_sha256(rows_path)):  # other tools record none
        raise UserError(f"{words_path}: {rows_path.name} has changed since: not of the same run; make both anew")
    return labels


def _described(labels: Labels) -> dict[str, Any]:
    return {"ix_to_word": labels.vocabulary.numbered, "images": [_entry(image) for image in labels.images]}


def _entry(image: AnnotatedImage) -> dict[str, Any]:
    number = int(image.id) if image.id.isdecimal() and str(int(image.id)) == image.id else image.id
    entry: dict[str, Any] = {"split": image.split, "file_path": image.file_path, "id": number}
    if image.size_px:
        entry["width"], entry["height"] = image.size_px
    return entry | {"captions": image.captions}


def _image(entry: dict[str, Any]) -> AnnotatedImage:
    size_px = (entry["width"], entry["height"]) if "width" in entry else None
    # FineCapEval's json has no splits: its images serve for everything, here for testing.
    split, captions = entry.get("split", "test"), tuple(entry.get("captions", ()))
    return AnnotatedImage(str(entry["id"]), split, entry.get("file_path", ""), captions, size_px)


def _read_rows(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with h5py.File(path, "r") as file:
        rows, start, end = (np.asarray(file[key]) for key in ("labels", "label_start_ix", "label_end_ix"))
    return rows.astype(np.uint32), start.astype(np.int64) - 1, end.astype(np.int64)


def _rows_of(content: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    captions = [image["labels"] for image in content["images"]]
    counts = np.array([len(own) for own in captions], dtype=np.int64)
    rows = np.zeros((counts.sum(), content["max_length"]), dtype=np.uint32)
    for row, numbers in zip(rows, (numbers for own in captions for numbers in own), strict=True):
        row[: len(numbers)] = numbers
    return rows, counts.cumsum() - counts, counts.cumsum()


def _write(path: Path, data: bytes) -> None:
    with atomic_write(path) as file:
        file.write(data)
