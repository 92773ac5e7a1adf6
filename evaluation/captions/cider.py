"""CIDEr-D (Vedantam et al. 2015), which coco-caption calls CIDEr, as a metric and as a reward.

For n = 1..4: the cosine of tf-idf vectors of n-grams, with the caption's counts clipped to the reference's, times
exp(-(difference of lengths)^2 / 72); mean over n and over references, times 10. tf are plain counts and lengths are
numbers of bigrams, as in coco-caption.
"""

import json
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from evaluation.captions.bleu import MAX_ORDER, Ngram, ngram_counts
from evaluation.captions.caption_set import CaptionSet
from evaluation.result import Result
from store.files import atomic_write, encode
from utils.errors import UserError

_SIGMA = 6.0
Words = Sequence[Hashable]  # strings, or numbers of a vocabulary


@dataclass(frozen=True)
class DocumentFrequency:
    """In how many of `num_images` images any reference has an n-gram. Rare n-grams weigh more.

    Captions that end are told from captions that were cut by a word for the end: whoever wants that appends it to
    captions and references, here and in `CiderD.score`.
    """

    counts: Mapping[Ngram, int]
    num_images: int

    @classmethod
    def build(cls, references: Iterable[Sequence[Words]]) -> "DocumentFrequency":
        """`references` are lists of captions, one list an image."""
        counts: Counter[Ngram] = Counter()
        num_images = 0
        for captions in references:
            counts.update({ngram for caption in captions for ngram in ngram_counts(caption)})
            num_images += 1
        return cls(counts, num_images)

    def save(self, path: Path) -> None:
        """Json: `num_images`, `words` (str or int) and `counts`, its keys n-grams with a space between the words."""
        kinds = {type(word) for ngram in self.counts for word in ngram}
        if len(kinds) > 1 or not kinds <= {str, int}:
            raise ValueError(f"words are {', '.join(kind.__name__ for kind in kinds)}: expected all str or all int")
        counts = {" ".join(map(str, ngram)): count for ngram, count in self.counts.items()}
        if any(len(key.split(" ")) != len(ngram) for key, ngram in zip(counts, self.counts, strict=True)):
            raise ValueError("a word with a space in the n-grams")
        kind = int if kinds == {int} else str
        with atomic_write(path) as file:
            file.write(encode({"num_images": self.num_images, "words": kind.__name__, "counts": counts}))

    @classmethod
    def load(cls, path: Path) -> "DocumentFrequency":
        """UserError where the file is none of `save`."""
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            word = {"str": str, "int": int}[content["words"]]
            counts = {tuple(map(word, key.split(" "))): int(count) for key, count in content["counts"].items()}
            return cls(counts, int(content["num_images"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: expected document frequencies (json with num_images, words, counts; {error!r})"
            ) from error

    def weigh(self, words: Words) -> dict[Ngram, float]:
        """tf-idf: count x log(images / images with it). N-grams that no reference has count as if one had."""
        log_images, log, images_with = math.log(max(self.num_images, 1)), math.log, self.counts.get
        return {ngram: n * (log_images - log(images_with(ngram, 1))) for ngram, n in ngram_counts(words).items()}


class Cider:
    """Mean over the images. Frequencies are those of the references that are scored, or of a file."""

    def __init__(self, *, document_frequency_path: str | None = None) -> None:
        path = document_frequency_path
        self._path = path
        self._frequency = DocumentFrequency.load(Path(path).expanduser()) if path else None

    def __call__(self, captions: CaptionSet) -> Result:
        frequency = self._frequency or DocumentFrequency.build(captions.reference_words)
        values = CiderD(frequency).score(captions.words, captions.reference_words)
        return Result(
            data={"document_frequency": self._path or "of the references", "num_images": frequency.num_images},
            metrics={"cider": float(values.mean())},
            details={"per_image": {"cider": values.tolist()}},
        )


class CiderD:
    """Scores captions, 0..10."""

    def __init__(self, frequency: DocumentFrequency) -> None:
        self._frequency = frequency

    def score(
        self, captions: Sequence[Words], references: Sequence[Sequence[Words]], *, captions_each: int = 1
    ) -> Float64[np.ndarray, " n"]:
        """`references` are lists of captions, one list an image; `captions`, `captions_each` an image, image by image.

        References are weighed once, however many captions their image has.
        """
        if len(captions) != captions_each * len(references):
            raise ValueError(f"{len(captions)} captions, {len(references)} images with {captions_each} each")
        scores = np.zeros(len(captions))
        for image, own in enumerate(references):
            weighed = _ReferenceWeights(own, self._frequency)
            for k in range(image * captions_each, (image + 1) * captions_each):
                scores[k] = weighed.score(captions[k])
        return scores


class _ReferenceWeights:
    """Of one image: for every n-gram, which references have it and what it weighs there."""

    def __init__(self, references: Sequence[Words], frequency: DocumentFrequency) -> None:
        self._frequency = frequency
        self._lengths = [max(len(reference) - 1, 0) for reference in references]
        self._holders: dict[Ngram, list[tuple[int, float]]] = {}
        self._norms = []
        for number, reference in enumerate(references):
            weights = frequency.weigh(reference)
            self._norms.append(_norms(weights))
            for ngram, weight in weights.items():
                self._holders.setdefault(ngram, []).append((number, weight))

    def score(self, caption: Words) -> float:
        weights = self._frequency.weigh(caption)
        own_norms = _norms(weights)
        products = [[0.0] * MAX_ORDER for _ in self._lengths]
        for ngram, weight in weights.items():
            for number, other in self._holders.get(ngram, ()):
                products[number][len(ngram) - 1] += min(weight, other) * other
        total = 0.0
        for product, norms, length in zip(products, self._norms, self._lengths, strict=True):
            cosines = sum(p / (a * b) for p, a, b in zip(product, own_norms, norms, strict=True) if a and b)
            total += cosines * math.exp(-((max(len(caption) - 1, 0) - length) ** 2) / (2 * _SIGMA**2))
        return 10 * total / (MAX_ORDER * len(self._lengths))


def _norms(weights: Mapping[Ngram, float]) -> list[float]:
    squares = [0.0] * MAX_ORDER
    for ngram, weight in weights.items():
        squares[len(ngram) - 1] += weight * weight
    return [math.sqrt(square) for square in squares]
