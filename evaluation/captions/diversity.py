"""How captions go wrong under rewards: words said twice, endings in the air, always the same. Nothing is compared."""

from collections.abc import Sequence

import numpy as np

from evaluation.captions.caption_set import CaptionSet
from evaluation.captions.tokenizer import Tokens
from evaluation.result import Result
from models.captioner.constraints import BAD_ENDINGS


class Diversity:
    """Shares are 0..1. `distinct_words` of captions of different number cannot be compared."""

    def __call__(self, captions: CaptionSet) -> Result:
        per_image = {
            "repeated_bigram_share": [float(repeats(words, 2)) for words in captions.words],
            "repeated_trigram_share": [float(repeats(words, 3)) for words in captions.words],
            "bad_ending_share": [float(ends_badly(words)) for words in captions.words],
            "mean_length_words": [float(len(words)) for words in captions.words],
        }
        metrics = {name: float(np.mean(values)) for name, values in per_image.items()}
        different = len({tuple(words) for words in captions.words})
        metrics["distinct_captions_share"] = different / len(captions.words)
        metrics["distinct_words"] = float(len({word for words in captions.words for word in words}))
        return Result(data={}, metrics=metrics, details={"per_image": per_image})


def repeats(words: Sequence[str], order: int) -> bool:
    """Is any run of `order` words there twice? "a dog and a dog" repeats a bigram; overlapping runs count too."""
    runs = list(zip(*(words[start:] for start in range(order)), strict=False))
    return len(set(runs)) < len(runs)


def ends_badly(words: Tokens) -> bool:
    return bool(words) and words[-1] in BAD_ENDINGS
