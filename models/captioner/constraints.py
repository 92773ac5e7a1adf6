"""What a caption may not say: small rules on the scores of the next token.

    rule(scores, prefix) -> scores

`scores` (m, V + 1) are log-probabilities or logits, `prefix` (m, t) the words so far without the beginning; what is
forbidden becomes -inf. The end is always open where no other token is, so that there is always something to choose.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from models.captioner.options import Decoding
from models.captioner.vocabulary import END, Vocabulary

Constraint = Callable[[Tensor, Tensor], Tensor]

BAD_ENDINGS = (
    *("a", "an", "the"),
    *("in", "for", "at", "of", "with", "before", "after", "on", "upon", "near", "to"),
    *("is", "are", "am"),
)


def constraints_of(decoding: Decoding, vocabulary: Vocabulary) -> list[Constraint]:
    """The rules that the options ask for, in the order in which they apply."""
    rules: list[Constraint] = []
    suppress_unknown = decoding.suppress_unknown and (decoding.method == "beam" or not decoding.upstream_compat)
    if suppress_unknown and vocabulary.unknown_id is not None:
        rules.append(forbid(vocabulary.unknown_id))
    if decoding.no_repeat:
        rules.append(no_repeat)
    if decoding.block_trigrams:
        rules.append(trigrams(2 * math.log(2) if decoding.upstream_compat else math.inf))
    if decoding.no_bad_endings:
        rules.append(no_bad_endings(vocabulary.ids_of(BAD_ENDINGS)))  # the last: it looks at what is left
    return rules


def constrain(scores: Float[Tensor, "m v"], prefix: Int64[Tensor, "m t"], rules: list[Constraint]) -> Tensor:
    for rule in rules:
        scores = rule(scores, prefix)
    return scores


def forbid(token: int) -> Constraint:
    def rule(scores: Tensor, prefix: Tensor) -> Tensor:
        return scores.index_fill(1, torch.tensor([token], device=scores.device), -math.inf)

    return rule


def no_repeat(scores: Float[Tensor, "m v"], prefix: Int64[Tensor, "m t"]) -> Float[Tensor, "m v"]:
    """No word twice in a row."""
    if not prefix.shape[1]:
        return scores
    last = prefix[:, -1:]
    return scores.scatter(1, last, scores.gather(1, last).masked_fill(last != END, -math.inf))


def trigrams(penalty: float) -> Constraint:
    """Takes `penalty` from a word for each time that it followed the last two words before."""

    def rule(scores: Tensor, prefix: Tensor) -> Tensor:
        if prefix.shape[1] < 3:
            return scores
        seen = prefix.unfold(1, 3, 1)  # (m, t - 2, 3)
        again = (seen[..., :2] == prefix[:, None, -2:]).all(dim=-1) & (seen[..., 2] != END)  # (m, t - 2)
        penalties = scores.new_zeros(again.shape).masked_fill(again, penalty)
        return scores - torch.zeros_like(scores).scatter_add(1, seen[..., 2], penalties)

    return rule


def no_bad_endings(words: list[int]) -> Constraint:
    """No end after these words, where a word is left to go on with."""

    def rule(scores: Tensor, prefix: Tensor) -> Tensor:
        if not prefix.shape[1]:
            return scores
        bad = torch.isin(prefix[:, -1], torch.tensor(words, dtype=prefix.dtype, device=prefix.device))
        stuck = scores[:, 1:].isneginf().all(dim=1)
        end = scores[:, :1].masked_fill((bad & ~stuck)[:, None], -math.inf)
        return torch.cat([end, scores[:, 1:]], dim=1)

    return rule
