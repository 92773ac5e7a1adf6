"""What decoding gives: tokens and their log-probabilities."""

from dataclasses import dataclass

from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from models.captioner.vocabulary import END


@dataclass(frozen=True)
class Decoded:
    """Captions of b images, n to each: row i n + j is number j of image i.

    `log_probs` are the chosen tokens', under the distribution they were chosen from: the model's at the temperature;
    for samples, of what was not forbidden or truncated. 0 after the end.
    """

    tokens: Int64[Tensor, "m t"]  # ends with 0, unless cut at max_words; 0 from there on
    log_probs: Float32[Tensor, "m t"]

    @property
    def mask(self) -> Bool[Tensor, "m t"]:
        """True for what was chosen: up to the first 0, and that 0 too."""
        return up_to_end(self.tokens)


@dataclass(frozen=True)
class Beams:
    """All that beam search found, best first. `scores` is -inf where there are not so many captions."""

    tokens: Int64[Tensor, "b k t"]
    log_probs: Float32[Tensor, "b k t"]
    scores: Float32[Tensor, "b k"]  # sums of log-probabilities, divided as `length_penalty` says


def up_to_end(tokens: Int64[Tensor, "*b t"]) -> Bool[Tensor, "*b t"]:
    """True up to the first 0 of each caption, and for that 0."""
    ended = tokens == END
    return ended.cumsum(dim=-1) - ended.long() == 0
