"""A vocabulary of BERT's WordPieces learned from captions, without any download.

Schuster and Nakajima 2012; the normaliser, splitter and special tokens are those of `distilbert-base-uncased`.
"""

from collections import Counter
from collections.abc import Iterable

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CONTINUED = "##"  # what a piece inside a word begins with
MAX_ALPHABET = 1000  # rarer characters become [UNK]


def learn_vocabulary(captions: Iterable[str], *, size: int, lowercase: bool) -> list[str]:
    """WordPieces in the order of their ids: special tokens, characters, merges. At most `size`, if that is enough.

    The same captions give the same. Left alone, the trainer numbers characters as it meets them, which is at random,
    and breaks ties between merges by these numbers: so it gets the characters as given pieces, sorted.
    """
    from tokenizers import BertWordPieceTokenizer

    captions, tokenizer = list(captions), BertWordPieceTokenizer(lowercase=lowercase)
    counts = Counter("".join("".join(map(tokenizer.normalizer.normalize_str, captions)).split()))
    frequent = sorted(sorted(counts), key=lambda character: -counts[character])[:MAX_ALPHABET]
    given = [*SPECIAL, *sorted(frequent), *sorted(CONTINUED + character for character in frequent)]
    tokenizer.train_from_iterator(
        captions, vocab_size=size, min_frequency=0, limit_alphabet=0, special_tokens=given, show_progress=False
    )
    words = tokenizer.get_vocab()
    return sorted(words, key=words.__getitem__)
