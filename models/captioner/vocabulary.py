"""The words a captioner knows, and their ids.

Ids 1 to V stand for the words in their order; 0 begins and ends a caption and fills it up behind its end. The last
word may be UNK, which stands for all others. As in ImageCaptioning.pytorch, whose json files hold it `numbered`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from torch import Tensor

from utils.errors import UserError

END = 0
UNK = "UNK"


@dataclass(frozen=True)
class Vocabulary:
    """`words[k]` has id k + 1. UserError unless all are different words without blanks, and UNK the last, if any."""

    words: Sequence[str]

    unk: ClassVar[str] = UNK

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(self.words))
        unusable = [word for word in self.words if not isinstance(word, str) or word.split() != [word]]
        twice = [word for word, count in Counter(self.words).items() if count > 1]
        if not self.words or unusable or twice:
            found = f"{unusable[0]!r}" if unusable else f"{twice[0]!r} twice" if twice else "none"
            raise UserError(f"vocabulary: expected one or more different words without blanks, found {found}")
        if UNK in self.words[:-1]:
            raise UserError(f"vocabulary: expected {UNK} as the last word, found {self.words[-1]!r} behind it")

    def __len__(self) -> int:
        """V, the number of words, UNK included and the 0 not."""
        return len(self.words)

    @classmethod
    def build(cls, captions: Iterable[Sequence[str]], *, threshold: int = 5) -> "Vocabulary":
        """Words that occur more than `threshold` times, in the order of their first occurrence.

        UNK follows where that leaves out any.
        """
        counts = Counter(word for caption in captions for word in caption)
        kept = [word for word, count in counts.items() if count > threshold and word != UNK]
        if not kept:
            raise UserError(
                f"vocabulary: no word of the captions occurs more than {threshold} times; lower that number"
            )
        return cls([*kept, UNK] if len(kept) < len(counts) else kept)

    @property
    def unknown_id(self) -> int | None:
        """The id of UNK, None where this vocabulary has none."""
        return len(self.words) if self.words[-1] == UNK else None

    def ids_of(self, words: Iterable[str]) -> list[int]:
        """The ids of those words that are in the vocabulary."""
        return [self._ids[word] for word in words if word in self._ids]

    def encode(self, words: Sequence[str]) -> list[int]:
        """Ids without a 0 at either end. UserError for a word that is not here where there is no UNK."""
        try:
            return [self._ids.get(word) or self._ids[UNK] for word in words]
        except KeyError:
            missing = [word for word in words if word not in self._ids]
            raise UserError(
                f"vocabulary: {missing[0]!r} is none of its {len(self)} words, and it has no {UNK}: "
                "count the words of all splits, or only those that occur more often"
            ) from None

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """The words up to the first 0, with single blanks between."""
        words = []
        for word_id in map(int, ids):
            if word_id == END:
                break
            if not 0 < word_id <= len(self):
                raise UserError(f"vocabulary: no word has id {word_id}, there are {len(self)}; made for another model?")
            words.append(self.words[word_id - 1])
        return " ".join(words)

    def sentences(self, tokens: Tensor) -> list[str]:
        """`decode` for every row of (m, t)."""
        return [self.decode(row) for row in tokens.tolist()]

    @classmethod
    def of_numbered(cls, words: Mapping[str, str]) -> "Vocabulary":
        """From `numbered`. KeyError where a number is left out."""
        return cls([words[str(number)] for number in range(1, len(words) + 1)])

    @property
    def numbered(self) -> dict[str, str]:
        """`{"1": ..., "2": ...}`, as json can hold it."""
        return {str(number): word for number, word in enumerate(self.words, start=1)}

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, start=1)}
