"""Images with their captions as words: what Karpathy's json or a csv file says."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from media.caption_files import CSV_COLUMNS, csv_rows, read_karpathy
from utils.errors import UserError

TRAIN_SPLITS = ("train", "restval")  # restval: images of COCO's validation set that Karpathy's split trains on
END_WORD = "<eos>"  # a caption that ends is better than one that was cut off: CIDEr-D counts the end as a word
_WORD = re.compile(r"\w+(?:'\w+)*")


@dataclass(frozen=True)
class AnnotatedImage:
    """`captions` are lists of words, lower case, without punctuation."""

    id: str  # COCO's number, else the stem of the file: the names that features are saved under
    split: str
    file_path: str  # "val2014/COCO_val2014_000000000042.jpg"
    captions: list[list[str]]


def words_of(caption: str) -> list[str]:
    """Lower case, without punctuation, words cut at hyphens: like 99.9 % of the `tokens` in Karpathy's Flickr8k."""
    return _WORD.findall(caption.lower())


def read_annotations(path: Path) -> list[AnnotatedImage]:
    """Karpathy's json, or a csv file with `image,caption` and perhaps `id` and `split`, in the file's order."""
    images = _read_csv(path) if path.suffix.lower() == ".csv" else _read_karpathy(path)
    if not images:
        raise UserError(f"annotations={path}: no images in it")
    (number, count), *_ = Counter(image.id for image in images).most_common(1)
    if count > 1:
        raise UserError(f"annotations={path}: the id {number} stands for several images; ids must differ")
    return images


def _read_karpathy(path: Path) -> list[AnnotatedImage]:
    return [
        AnnotatedImage(
            id=image.id,
            split=image.split,
            file_path=image.files[0],
            captions=[list(caption.tokens) or words_of(caption.raw) for caption in image.captions],
        )
        for image in read_karpathy(path, key="annotations")
    ]


def _read_csv(path: Path) -> list[AnnotatedImage]:
    """One row a caption; rows with the same image belong together. Without a column `split` all is for training."""
    images: dict[str, AnnotatedImage] = {}
    for row in csv_rows(path, "annotations", CSV_COLUMNS[:2]):
        name, caption = row["image"], row["caption"]
        if not name or caption is None:
            raise UserError(
                f"annotations={path}: expected a csv file with image,caption,id (no image or caption in {row})"
            )
        number, split = row.get("id") or Path(name).stem, row.get("split") or TRAIN_SPLITS[0]
        image = images.setdefault(name, AnnotatedImage(number, split, name, []))
        image.captions.append(words_of(caption))
    return list(images.values())
