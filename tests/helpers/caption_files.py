"""Annotations of a few images, and features of any shape for them."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.captioner.vocabulary import Vocabulary
from pairs.annotations import AnnotatedImage
from pairs.labels import Labels, make_labels
from training.captioning.data import LabelledGrids
from training.captioning.prepare_labels import prepare


def annotated(number: int, captions: list[str], split: str = "train") -> AnnotatedImage:
    return AnnotatedImage(str(number), split, f"folder/{number:06}.jpg", tuple(captions))


def write_karpathy(path: Path, images: list[AnnotatedImage]) -> Path:
    """With COCO's keys; `tokens` and `raw` as Karpathy has them."""
    entries = [
        {
            "filepath": image.file_path.rpartition("/")[0],
            "filename": image.file_path.rpartition("/")[2],
            "cocoid": int(image.id),
            "imgid": number,
            "split": image.split,
            "sentences": [{"tokens": words.split(), "raw": f"{words}."} for words in image.captions],
        }
        for number, image in enumerate(images)
    ]
    path.write_text(json.dumps({"images": entries, "dataset": "coco"}))
    return path


def write_data_set(folder: Path, splits: Sequence[str] = ("train", "restval", "val", "test")) -> dict[str, str]:
    """Annotations -> labels, and a grid and an embedding an image, as the jobs before the training leave them."""
    images = [annotated(i, [f"a b c{i}", "b a"], split) for i, split in enumerate(splits)]
    annotations = write_karpathy(folder / "dataset.json", images)
    prepare(annotations=str(annotations), output_path=str(folder / "labels"), word_count_threshold=1)
    (folder / "features").mkdir()
    for i in range(len(images)):
        np.savez(folder / "features" / f"{i}.npz", features=np.full((2, 3), i, np.float32), g_feature=np.ones((1, 4)))
    return {"labels_path": str(folder / "labels"), "grids_path": str(folder / "features")}


def numbered_labels(images: int, captions_each: int = 7) -> Labels:
    """Caption j of image i is "i<i> c<j>": every row can be told from every other."""
    vocabulary = Vocabulary([f"i{i}" for i in range(images)] + [f"c{j}" for j in range(captions_each)])
    content = [annotated(i, [f"i{i} c{j}" for j in range(captions_each)]) for i in range(images)]
    return make_labels(content, vocabulary)


def numbered_source(images: int, captions_each: int = 7, **changed) -> LabelledGrids:
    """Image i has a grid full of i and an embedding of its own direction."""
    labels = numbered_labels(images, captions_each)
    grids = {image.id: np.full((4, 3), i, np.float16) for i, image in enumerate(labels.images)}
    embeddings = {image.id: np.eye(images, dtype=np.float32)[i] for i, image in enumerate(labels.images)}
    arguments = {"grids": grids, "embeddings": embeddings, "references": labels.whole_captions} | changed
    return LabelledGrids(labels, **arguments)
