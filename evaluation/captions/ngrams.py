"""Sequences of words as they are counted by BLEU and CIDEr-D."""

from collections import Counter
from collections.abc import Hashable, Sequence

MAX_ORDER = 4
Ngram = tuple[Hashable, ...]


def ngram_counts(words: Sequence[Hashable], max_order: int = MAX_ORDER) -> Counter[Ngram]:
    """How often each run of 1 to `max_order` words occurs. Words may be strings or numbers of a vocabulary."""
    if isinstance(words, str):
        raise TypeError(f"expected a list of words, found the text {words!r}")
    counts: Counter[Ngram] = Counter()
    for order in range(1, max_order + 1):
        counts.update(zip(*(words[start:] for start in range(order)), strict=False))
    return counts
