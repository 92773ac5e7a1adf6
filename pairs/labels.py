"""Captions as numbers of words: the rows a captioner learns from, and what is known of their images.

As ImageCaptioning.pytorch (Luo, `scripts/prepro_labels.py`) makes them, with one difference: the vocabulary is
that of the training captions, unless all of them are asked for.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64, UInt32

from models.captioner.vocabulary import Vocabulary
from pairs.annotations import AnnotatedImage
from utils.errors import UserError, check_count, some


@dataclass(frozen=True)
class Labels:
    """Rows `start[i]` to before `end[i]` of `rows` are the captions of `images[i]`."""

    vocabulary: Vocabulary
    images: Sequence[AnnotatedImage]
    rows: UInt32[np.ndarray, "m t"]  # numbers of words from 1 on, then zeros
    start: Int64[np.ndarray, " n"]
    end: Int64[np.ndarray, " n"]

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.start) == len(self.end):
            raise ValueError(f"{len(self.images)} images, but rows of {len(self.start)}")
        if self.rows.max(initial=0) > len(self.vocabulary):
            raise ValueError(f"{len(self.vocabulary)} words, but a row has number {self.rows.max()}")
        if self.start.min(initial=0) < 0 or self.end.max(initial=0) > len(self.rows):
            raise ValueError(f"images ask for rows up to {self.end.max()}, there are {len(self.rows)}")
        without = [image.id for image, none in zip(self.images, self.start >= self.end, strict=True) if none]
        if without:
            raise UserError(f"{len(without)} image(s) without captions, which is not possible here: {some(without)}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def max_length(self) -> int:
        return self.rows.shape[1]

    def of_image(self, index: int) -> UInt32[np.ndarray, "k t"]:
        return self.rows[self.start[index] : self.end[index]]

    def known_captions(self, index: int) -> list[str]:
        """Words with blanks between, as the rows tell them: cut at `max_length`, other words are UNK."""
        words = self.vocabulary.words
        rows: list[list[int]] = self.of_image(index).tolist()
        return [" ".join(words[number - 1] for number in row if number) for row in rows]

    def whole_captions(self, index: int) -> list[str]:
        """Words with blanks between, nothing cut; as the rows tell them where the files hold nothing else."""
        return list(self.images[index].captions) or self.known_captions(index)

    def count_splits(self) -> Counter[str]:
        """Images of each split."""
        return Counter(image.split for image in self.images)

    def take(self, splits: Collection[str]) -> "Labels":
        """The images of these splits. UserError where there are none."""
        chosen = np.array([i for i, image in enumerate(self.images) if image.split in splits], dtype=np.int64)
        if not len(chosen):
            raise UserError(f"no images of split {' or '.join(splits)}; there are: {', '.join(self.count_splits())}")
        images = [self.images[i] for i in chosen]
        return replace(self, images=images, start=self.start[chosen], end=self.end[chosen])


def make_vocabulary(
    images: Sequence[AnnotatedImage], counted: Sequence[AnnotatedImage], *, threshold: int = 5
) -> Vocabulary:
    """Of the captions of `counted`. It has UNK where the captions of `images` ask for it."""
    known = (caption.split() for image in counted for caption in image.captions)
    vocabulary = Vocabulary.build(known, threshold=threshold)
    if vocabulary.unknown_id is None:
        used = {word for image in images for caption in image.captions for word in caption.split()}
        if not used <= set(vocabulary.words):
            return Vocabulary([*vocabulary.words, vocabulary.unk])
    return vocabulary


def make_labels(images: Sequence[AnnotatedImage], vocabulary: Vocabulary, *, max_length: int = 16) -> Labels:
    """Captions longer than `max_length` are cut, those without a word left out.

    UserError for images without captions.
    """
    check_count("max_length", max_length)
    images = [replace(image, captions=tuple(filter(None, image.captions))) for image in images]
    without = [image.id for image in images if not image.captions]
    if without:
        raise UserError(f"{len(without)} image(s) without captions, leave them out of the annotations: {some(without)}")
    counts = np.array([len(image.captions) for image in images], dtype=np.int64)
    rows = np.zeros((counts.sum(), max_length), dtype=np.uint32)
    for row, caption in zip(rows, (caption for image in images for caption in image.captions), strict=True):
        numbers = vocabulary.encode(caption.split()[:max_length])
        row[: len(numbers)] = numbers
    end = counts.cumsum()
    return Labels(vocabulary, images, rows, end - counts, end)
