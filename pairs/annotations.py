"""Images with their captions as words, as captioners learn them."""

import re
from dataclasses import dataclass
from pathlib import Path

from media.caption_files import check_distinct, read_captions
from utils.errors import UserError

TRAIN_SPLITS = ("train", "restval")  # restval: images of COCO's validation set that Karpathy's split trains on
END_WORD = "<eos>"  # a caption that ends is better than one that was cut off: CIDEr-D counts the end as a word
_WORD = re.compile(r"\w+(?:'\w+)*")


@dataclass(frozen=True)
class AnnotatedImage:
    """`captions` are lists of words, lower case, without punctuation."""

    id: str  # the name that features are saved under
    split: str
    file_path: str  # "val2014/COCO_val2014_000000000042.jpg"
    captions: list[list[str]]


def words_of(caption: str) -> list[str]:
    """Lower case, without punctuation, words cut at hyphens: like 99.9 % of the `tokens` in Karpathy's Flickr8k."""
    return _WORD.findall(caption.lower())


def read_annotations(path: Path) -> list[AnnotatedImage]:
    """In the file's order; `tokens` are taken as they are. Where no split is told, all is for training."""
    images = [
        AnnotatedImage(
            id=image.id,
            split=image.split or TRAIN_SPLITS[0],
            file_path=image.files[0],
            captions=[list(caption.tokens) or words_of(caption.raw) for caption in image.captions],
        )
        for image in read_captions(path, key="annotations")
    ]
    if not images:
        raise UserError(f"annotations={path}: no images in it")
    check_distinct((image.id for image in images), f"annotations={path}")
    return images
