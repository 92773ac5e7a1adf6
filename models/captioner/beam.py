"""Beam search: at each step the best continuations of the best captions so far.

As in ImageCaptioning.pytorch: beams are compared by the sums of their log-probabilities; a beam that chooses the end,
or reaches `max_words`, takes its place among the best finished ones and is not continued. Deliberate differences: all
images are searched at once; the search ends as soon as no open beam can come among the finished ones any more, which
changes nothing in the result; the temperature applies to the first word, too.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from models.captioner.constraints import Constraint, constrain
from models.captioner.model import Captioner, State
from models.captioner.options import Decoding
from models.captioner.vocabulary import END


@dataclass(frozen=True)
class Beams:
    """k captions of each of b images, best first. `scores` is -inf for places that hold none."""

    tokens: Int64[Tensor, "b k t"]  # 0 where nothing is chosen yet
    log_probs: Float32[Tensor, "b k t"]
    scores: Float32[Tensor, "b k"]  # sums of log-probabilities; of finished ones divided as `length_penalty` says


def beam_search(model: Captioner, state: State, images: int, decoding: Decoding, rules: list[Constraint]) -> Beams:
    """The `beam_size` best captions that the search finds for each image."""
    beams, max_words = decoding.beam_size, decoding.max_words
    device = state.image[0].keys.device
    tokens = torch.full((images, beams, max_words), END, dtype=torch.long, device=device)
    done = Beams(tokens, tokens.float(), torch.full((images, beams), -math.inf, device=device))
    first_only = done.scores.index_fill(1, torch.tensor([0], device=device), 0.0)  # all begin alike: one is enough
    live = replace(done, scores=first_only)
    last = live.tokens[..., 0]
    for position in range(max_words):
        logits, state = model.step(state, last.flatten())
        log_probs = (logits.float() / decoding.temperature).log_softmax(dim=1)
        log_probs = constrain(log_probs, live.tokens[..., :position].flatten(0, 1), rules)
        live, parents = _continue(live, log_probs.view(images, beams, -1), position)
        last = live.tokens[..., position]
        ended = last == END if position + 1 < max_words else torch.ones_like(last, dtype=torch.bool)
        final = (live.scores / decoding.length_divisor(position + 1)).masked_fill(~ended, -math.inf)
        done = _best(done, replace(live, scores=final))
        live = replace(live, scores=live.scores.masked_fill(ended, -math.inf))
        if _is_settled(live, done, decoding.length_divisor(max_words)):
            break
        state = state.select(parents.flatten())
    none = done.scores.isneginf().unsqueeze(2)
    return Beams(done.tokens.masked_fill(none, END), done.log_probs.masked_fill(none, 0.0), done.scores)


def _best(done: Beams, ended: Beams) -> Beams:
    """Of each image the k with the highest scores among both, best first."""
    tokens, log_probs, scores = (torch.cat([getattr(done, name), getattr(ended, name)], dim=1) for name in vars(done))
    scores, places = scores.topk(done.scores.shape[1], dim=1)
    return Beams(_take(tokens, places), _take(log_probs, places), scores)


def _is_settled(live: Beams, done: Beams, last_divisor: float) -> bool:
    """Sums only fall: the best that an open beam can do is to keep its sum until it is divided as at full length."""
    bound = live.scores.amax(dim=1) / last_divisor
    return bool((bound <= done.scores[:, -1]).all())


def _continue(live: Beams, log_probs: Tensor, position: int) -> tuple[Beams, Tensor]:
    """The best continuations by one token, from `log_probs` (b, k, v); and the rows (b, k) of 0..b*k they continue."""
    images, beams, size = log_probs.shape
    scores, places = (live.scores.unsqueeze(2) + log_probs).flatten(1).topk(beams, dim=1)
    parents, chosen = places // size, places % size
    tokens, chosen_log_probs = _take(live.tokens, parents), _take(live.log_probs, parents)
    tokens[..., position] = chosen
    chosen_log_probs[..., position] = log_probs.flatten(1).gather(1, places)
    first_rows = torch.arange(images, device=parents.device).unsqueeze(1) * beams
    return Beams(tokens, chosen_log_probs, scores), parents + first_rows


def _take(values: Tensor, places: Tensor) -> Tensor:
    return values.gather(1, places.unsqueeze(2).expand(-1, -1, values.shape[2]))
