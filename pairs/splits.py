"""Which images are held out: those whose file says so, or a share of them, the same ones in every job."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from media.caption_files import CaptionedFile
from utils.errors import UserError, check_count, check_number

TRAIN_SPLITS = ("train", "restval")  # restval: images of COCO's validation set that Karpathy's split trains on
VALIDATION = "val"


def held_out_ids(count: int, share: float, seed: int, *, least: int = 0) -> np.ndarray:
    """`int(share * count)` of the ids 0..count-1, the very ids that seed 1's code holds out; `least` at least."""
    size = max(least, int(share * count))
    return np.random.RandomState(seed).choice(np.arange(count), size=size, replace=False)


def all_told(listed: Sequence[CaptionedFile]) -> list[CaptionedFile]:
    """Images whose split is not told are for training."""
    return [image if image.split else replace(image, split=TRAIN_SPLITS[0]) for image in listed]


def counted_splits(splits: Iterable[str]) -> str:
    """ "train: 80, test: 20", for messages."""
    return ", ".join(f"{split}: {count}" for split, count in Counter(splits).items()) or "none"


def with_validation(listed: Sequence[CaptionedFile], *, share: float, seed: int, where: str) -> list[CaptionedFile]:
    """`share` of the training images becomes split `val`, one at least; images of one id stay together.

    Where ids are 0, 1, 2 ... these are seed 1's. UserError, which starts with `where`, if nothing is left to train on.
    """
    check_number("validation_share", share, least=0, most=1)
    check_count("split_seed", seed, least=0)
    images = all_told(listed)
    numbers = np.unique([image.number for image in images if image.split in TRAIN_SPLITS])
    size = max(1, int(share * len(numbers)))
    if share == 0 or size >= len(numbers):
        raise UserError(
            f"{where}: validation_share={share} leaves none to train on, or none to validate on; "
            f"images by split: {counted_splits(image.split for image in images)}"
        )
    chosen = set(numbers[held_out_ids(len(numbers), share, seed, least=1)].tolist())
    return [
        replace(image, split=VALIDATION) if image.split in TRAIN_SPLITS and image.number in chosen else image
        for image in images
    ]
