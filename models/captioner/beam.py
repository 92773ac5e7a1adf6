"""Beam search: at each step the best continuations of the best captions so far.

As in ImageCaptioning.pytorch: beams are compared by the sums of their log-probabilities; a beam that chooses the end,
or reaches `max_words`, takes its place among the best finished ones and is not continued. Deliberate differences: all
images are searched at once; the search ends as soon as no open beam can come among the finished ones any more, which
changes nothing in the result; the temperature applies to the first word, too.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.captioner.constraints import Constraint, constrain
from models.captioner.decoded import Beams
from models.captioner.model import Captioner, State
from models.captioner.options import Decoding
from models.captioner.vocabulary import END


@dataclass(frozen=True)
class Hypotheses:
    """k captions of each of b images. `scores` is -inf for places that hold none."""

    tokens: Tensor  # (b, k, max_words) int64, 0 where nothing is chosen yet
    log_probs: Tensor  # (b, k, max_words)
    scores: Tensor  # (b, k)

    @classmethod
    def empty(cls, images: int, beams: int, max_words: int, device: torch.device) -> "Hypotheses":
        tokens = torch.full((images, beams, max_words), END, dtype=torch.long, device=device)
        return cls(tokens, tokens.float(), torch.full((images, beams), -math.inf, device=device))

    def best(self, count: int) -> "Hypotheses":
        """Of each image those with the highest scores, best first."""
        scores, places = self.scores.topk(count, dim=1)
        return Hypotheses(_take(self.tokens, places), _take(self.log_probs, places), scores)

    def and_also(self, other: "Hypotheses") -> "Hypotheses":
        pairs = [(self.tokens, other.tokens), (self.log_probs, other.log_probs), (self.scores, other.scores)]
        return Hypotheses(*(torch.cat(pair, dim=1) for pair in pairs))

    def scored(self, scores: Tensor) -> "Hypotheses":
        return Hypotheses(self.tokens, self.log_probs, scores)


def beam_search(model: Captioner, state: State, images: int, decoding: Decoding, rules: list[Constraint]) -> Beams:
    """The `beam_size` best captions that the search finds for each image."""
    beams, max_words = decoding.beam_size, decoding.max_words
    device = state.image[0].keys.device
    done = Hypotheses.empty(images, beams, max_words, device)
    first_only = done.scores.index_fill(1, torch.tensor([0], device=device), 0.0)  # all begin alike: one is enough
    live = done.scored(first_only)
    last = live.tokens[..., 0]
    for position in range(max_words):
        logits, state = model.step(state, last.flatten())
        log_probs = (logits.float() / decoding.temperature).log_softmax(dim=1)
        log_probs = constrain(log_probs, live.tokens[..., :position].flatten(0, 1), rules)
        live, parents = _continue(live, log_probs.view(images, beams, -1), position)
        last = live.tokens[..., position]
        ended = last == END if position + 1 < max_words else torch.ones_like(last, dtype=torch.bool)
        final = (live.scores / decoding.length_divisor(position + 1)).masked_fill(~ended, -math.inf)
        done = done.and_also(live.scored(final)).best(beams)
        live = live.scored(live.scores.masked_fill(ended, -math.inf))
        if _is_settled(live, done, decoding.length_divisor(max_words)):
            break
        state = state.select(parents.flatten())
    none = done.scores.isneginf().unsqueeze(2)
    return Beams(done.tokens.masked_fill(none, END), done.log_probs.masked_fill(none, 0.0), done.scores)


def _is_settled(live: Hypotheses, done: Hypotheses, last_divisor: float) -> bool:
    """Sums only fall: the best that an open beam can do is to keep its sum until it is divided as at full length."""
    bound = live.scores.amax(dim=1) / last_divisor
    return bool((bound <= done.scores[:, -1]).all())


def _continue(live: Hypotheses, log_probs: Tensor, position: int) -> tuple[Hypotheses, Tensor]:
    """The best continuations by one token, from `log_probs` (b, k, v); and the rows (b, k) of 0..b*k they continue."""
    images, beams, size = log_probs.shape
    scores, places = (live.scores.unsqueeze(2) + log_probs).flatten(1).topk(beams, dim=1)
    parents, chosen = places // size, places % size
    tokens, chosen_log_probs = _take(live.tokens, parents), _take(live.log_probs, parents)
    tokens[..., position] = chosen
    chosen_log_probs[..., position] = log_probs.flatten(1).gather(1, places)
    first_rows = torch.arange(images, device=parents.device).unsqueeze(1) * beams
    return Hypotheses(tokens, chosen_log_probs, scores), parents + first_rows


def _take(values: Tensor, places: Tensor) -> Tensor:
    return values.gather(1, places.unsqueeze(2).expand(-1, -1, values.shape[2]))
