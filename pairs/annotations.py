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
    """`captions`: words with blanks between, lower case, without punctuation, nothing cut."""

    id: str  # the name that features are saved under
    split: str
    file_path: str  # "val2014/COCO_val2014_000000000042.jpg"
    captions: tuple[str, ...] = ()  # none in labels of other tools
    size_px: tuple[int, int] | None = None  # width, height


def in_words(caption: str) -> str:
    """Lower case, without punctuation, words cut at hyphens: like 99.9 % of the `tokens` in Karpathy's Flickr8k."""
    return " ".join(_WORD.findall(caption.lower()))


def read_annotations(path: Path) -> list[AnnotatedImage]:
    """In the file's order; `tokens` are taken as they are. Where no split is told, all is for training."""
    images = [
        AnnotatedImage(
            id=image.id,
            split=image.split or TRAIN_SPLITS[0],
            file_path=image.files[0],
            captions=tuple(" ".join(caption.tokens) or in_words(caption.raw) for caption in image.captions),
        )
        for image in read_captions(path, key="annotations")
    ]
    if not images:
        raise UserError(f"annotations={path}: no images in it")
    check_distinct((image.id for image in images), f"annotations={path}")
    return images
