"""Images with their captions as words, as captioners learn them."""

import re
from dataclasses import dataclass
from pathlib import Path

from media.caption_files import check_distinct, read_captions
from pairs.splits import VALIDATION, all_told, with_validation
from utils.errors import UserError

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


def read_annotations(
    path: Path, *, validation_share: float | None = None, split_seed: int = 42
) -> list[AnnotatedImage]:
    """In the file's order; `tokens` are taken as they are. Where no split is told, all is for training.

    `validation_share` of the training images are held out as `val`, where the file tells none. UserError if it does.
    """
    where, listed = f"annotations={path}", read_captions(path, key="annotations")
    if not listed:
        raise UserError(f"{where}: no images in it")
    check_distinct((image.id for image in listed), where)
    if validation_share is None:
        listed = all_told(listed)
    elif told := sum(image.split == VALIDATION for image in listed):
        raise UserError(f"{where}: {told} images are of split {VALIDATION} already; leave validation_share out")
    else:
        listed = with_validation(listed, share=validation_share, seed=split_seed, where=where)
    return [
        AnnotatedImage(
            id=image.id,
            split=image.split,
            file_path=image.files[0],
            captions=tuple(" ".join(caption.tokens) or in_words(caption.raw) for caption in image.captions),
        )
        for image in listed
    ]
