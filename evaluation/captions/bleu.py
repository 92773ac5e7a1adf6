"""BLEU-1 to BLEU-4 (Papineni et al. 2002) with the details of coco-caption.

The reference length is the one closest to the caption's (of two, the shorter). 1e-15 is added to the matches and 1e-9
to the guesses of each order, so that a caption without a 4-gram in common still has a tiny value.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.captions.caption_set import CaptionSet
from evaluation.result import Result

MAX_ORDER = 4
Ngram = tuple[Hashable, ...]
_TINY, _SMALL = 1e-15, 1e-9


class Bleu:
    """Of the whole set; the values of single images are noisier and do not average to it."""

    def __call__(self, captions: CaptionSet) -> Result:
        counts = bleu_counts(captions.words, captions.reference_words)
        names = [f"bleu_{order}" for order in range(1, MAX_ORDER + 1)]
        total = sum_counts(counts)
        per_image = np.array([bleu(each) for each in counts])
        return Result(
            data={"length": total.length, "reference_length": total.reference_length},
            metrics=dict(zip(names, bleu(total), strict=True)),
            details={
                "matches": total.matches,
                "guesses": total.guesses,
                "per_image": dict(zip(names, per_image.T.tolist(), strict=True)),
            },
        )


@dataclass(frozen=True)
class BleuCounts:
    """Words, and by order 1 to 4: n-grams of the caption (`guesses`), and those of them that a reference has."""

    length: int
    reference_length: int
    guesses: list[int]
    matches: list[int]


def ngram_counts(words: Sequence[Hashable]) -> Counter[Ngram]:
    """How often each run of 1 to `MAX_ORDER` words occurs. Words may be strings or numbers of a vocabulary."""
    if isinstance(words, str):
        raise TypeError(f"expected a list of words, found the text {words!r}")
    counts: Counter[Ngram] = Counter()
    for order in range(1, MAX_ORDER + 1):
        counts.update(zip(*(words[start:] for start in range(order)), strict=False))
    return counts


def bleu_counts(
    captions: Sequence[Sequence[Hashable]], references: Sequence[Sequence[Sequence[Hashable]]]
) -> list[BleuCounts]:
    return [_counts(caption, own) for caption, own in zip(captions, references, strict=True)]


def sum_counts(counts: Iterable[BleuCounts]) -> BleuCounts:
    counts = list(counts)
    return BleuCounts(
        sum(each.length for each in counts),
        sum(each.reference_length for each in counts),
        [sum(column) for column in zip(*(each.guesses for each in counts), strict=True)],
        [sum(column) for column in zip(*(each.matches for each in counts), strict=True)],
    )


def bleu(counts: BleuCounts) -> list[float]:
    """BLEU-1 to BLEU-4, 0..1: geometric means of the precisions, times the penalty for captions that are too short."""
    ratio = (counts.length + _TINY) / (counts.reference_length + _SMALL)
    # Of an empty caption exp(1 - 1/ratio) underflows to 0, as it should.
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    values, product = [], 1.0
    for order, (matches, guesses) in enumerate(zip(counts.matches, counts.guesses, strict=True), start=1):
        product *= (matches + _TINY) / (guesses + _SMALL)
        values.append(penalty * product ** (1 / order))
    return values


def _counts(caption: Sequence[Hashable], references: Sequence[Sequence[Hashable]]) -> BleuCounts:
    most: dict[Ngram, int] = {}
    for reference in references:
        for ngram, count in ngram_counts(reference).items():
            most[ngram] = max(count, most.get(ngram, 0))
    matches = [0] * MAX_ORDER
    for ngram, count in ngram_counts(caption).items():
        matches[len(ngram) - 1] += min(count, most.get(ngram, 0))
    guesses = [max(0, len(caption) - order) for order in range(MAX_ORDER)]
    _, closest = min((abs(len(reference) - len(caption)), len(reference)) for reference in references)
    return BleuCounts(len(caption), closest, guesses, matches)
