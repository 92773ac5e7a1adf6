"""BERT's WordPiece tokens without any download: a vocabulary learned from captions, and the tokenizer around one.

Schuster and Nakajima 2012; the normaliser, splitter and special tokens are those of `distilbert-base-uncased`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from utils.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUED = "##"  # what a piece inside a word begins with
MAX_ALPHABET = 1000  # rarer characters become [UNK]


def wordpiece(vocabulary: Sequence[str], *, lowercase: bool) -> "Tokenizer":
    """A tokenizer that gives [CLS] text [SEP]; ids are positions in `vocabulary`, which holds the special tokens."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece

    ids = {word: index for index, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="[CLS] $A [SEP]", special_tokens=[(word, ids[word]) for word in ("[CLS]", "[SEP]")]
    )
    return tokenizer


def tokenize(
    tokenizer: "Tokenizer", texts: list[str], *, context_length: int, pad_id: int, truncate: bool
) -> Int[Tensor, "n t"]:
    """Ids, int32, padded to `context_length`. A longer text raises; `truncate` cuts it before [SEP]."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    for row, ids in enumerate(rows):
        if len(ids) > context_length and not truncate:
            raise UserError(
                f"text {row + 1} of {len(rows)} has {len(ids)} tokens, {context_length} is the most this model takes "
                f"(truncate=True cuts it): {texts[row][:80]!r}"
            )
        if len(ids) > context_length:
            rows[row] = [*ids[: context_length - 1], ids[-1]]
    result = torch.full((len(rows), context_length), pad_id, dtype=torch.int)
    for row, ids in enumerate(rows):
        result[row, : len(ids)] = torch.tensor(ids, dtype=torch.int)
    return result


def learn_vocabulary(captions: Iterable[str], *, size: int, lowercase: bool) -> list[str]:
    """WordPieces in the order of their ids: special tokens, characters, merges. At most `size`, if that is enough.

    The same captions give the same. Left alone, the trainer numbers characters as it meets them, which is at random,
    and breaks ties between merges by these numbers: so it gets the characters as given pieces, sorted.
    """
    from tokenizers.trainers import WordPieceTrainer

    captions = list(captions)
    tokenizer = wordpiece(SPECIAL, lowercase=lowercase)
    given = [*SPECIAL, *_alphabet(tokenizer, captions)]
    trainer = WordPieceTrainer(vocab_size=size, special_tokens=given, limit_alphabet=0, show_progress=False)
    tokenizer.train_from_iterator(captions, trainer)
    words = tokenizer.get_vocab()
    return sorted(words, key=words.__getitem__)


def _alphabet(tokenizer: "Tokenizer", captions: list[str]) -> list[str]:
    """The frequent characters as they begin a word and as they go on with one."""
    normalizer, splitter = tokenizer.normalizer, tokenizer.pre_tokenizer
    assert normalizer is not None
    assert splitter is not None
    counts: Counter[str] = Counter()
    for caption in captions:
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(caption)):
            counts.update(word)
    frequent = sorted(sorted(counts), key=lambda character: -counts[character])[:MAX_ALPHABET]
    return sorted(frequent) + sorted(CONTINUED + character for character in frequent)
