"""How captions are decoded: the options of all methods."""

from dataclasses import dataclass
from typing import Literal, get_args

from utils.errors import UserError, check_count, check_flags, check_number, check_option

Method = Literal["greedy", "sample", "beam"]


@dataclass(frozen=True)
class Decoding:
    """Options of `decode`; those of other methods than the chosen one have no effect. UserError for wrong values.

    `temperature` divides the logits, for all methods. `top_k` and `top_p` are for sampling: draw among the k likeliest
    words, then among the fewest of them that have probability p together.
    `length_penalty` is for beams, which are ranked by the sum of their log-probabilities: "none", "wu_A" divides by
    ((5 + length) / 6)^A, "avg_A" by length^A, the end counted.
    `upstream_compat`: as ImageCaptioning.pytorch, which forbids UNK to beams only, and makes a trigram that was there
    n times 4^n times less likely instead of forbidding it.
    """

    method: Method = "greedy"
    max_words: int = 20
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    beam_size: int = 5
    length_penalty: str = "none"
    no_repeat: bool = False  # the same word twice in a row
    block_trigrams: bool = False  # the same three words in a row twice
    no_bad_endings: bool = False  # an end after "a", "the", "of" ... (`constraints.BAD_ENDINGS`)
    suppress_unknown: bool = True  # UNK
    samples_per_image: int = 1
    upstream_compat: bool = False

    def __post_init__(self) -> None:
        if (
            self.method == "gumbel"
        ):  # the largest of log p + Gumbel noise is a draw from p, whatever both are divided by
            raise UserError("method=gumbel: draws what method=sample temperature=1 draws, as likely; use that")
        check_option("method", self.method, get_args(Method))
        for key in ("max_words", "beam_size", "samples_per_image"):
            check_count(key, getattr(self, key))
        if self.top_k is not None:
            check_count("top_k", self.top_k)
        check_number("temperature", self.temperature)
        if not self.temperature > 0:
            raise UserError(f"temperature={self.temperature}: expected a number above 0")
        if self.top_p is not None:
            check_number("top_p", self.top_p)
            if not 0 < self.top_p <= 1:
                raise UserError(f"top_p={self.top_p}: expected a number above 0, 1 at most")
        flags = ("no_repeat", "block_trigrams", "no_bad_endings", "suppress_unknown", "upstream_compat")
        check_flags(**{key: getattr(self, key) for key in flags})
        if self.samples_per_image > 1 and self.method != "sample":
            raise UserError(
                f"samples_per_image={self.samples_per_image}: method={self.method} gives one caption; "
                "use method=sample, or decode_beams for all beams"
            )
        self.length_divisor(1)  # looks at `length_penalty`

    def length_divisor(self, length: int) -> float:
        """What the sum of `length` log-probabilities is divided by."""
        if self.length_penalty == "none":
            return 1.0
        kind, _, number = str(self.length_penalty).partition("_")  # 1 is no text: it lacks a kind, too
        try:
            exponent = float(number)
        except ValueError:
            exponent = -1.0
        if kind not in ("wu", "avg") or not 0 <= exponent < float("inf"):
            raise UserError(
                f"length_penalty={self.length_penalty}: expected none, wu_A or avg_A, such as wu_0.9 or avg_1"
            )
        return ((5 + length) / 6 if kind == "wu" else length) ** exponent
