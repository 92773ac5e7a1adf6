"""Captions word by word, without looking back: the likeliest word, or a word drawn."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from models.captioner.constraints import Constraint, constrain
from models.captioner.decoded import Decoded
from models.captioner.model import Captioner, State
from models.captioner.options import Decoding
from models.captioner.vocabulary import END

# (scores (m, v), prefix (m, t)) -> chosen tokens and their log-probabilities, both (m, 1)
Choose = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def greedy(rules: list[Constraint]) -> Choose:
    """The likeliest token that is not forbidden."""

    def choose(logits: Tensor, prefix: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = constrain(logits.log_softmax(dim=1), prefix, rules)
        chosen = log_probs.detach().argmax(dim=1, keepdim=True)
        return chosen, log_probs.gather(1, chosen)

    return choose


def sample(decoding: Decoding, rules: list[Constraint], generator: torch.Generator | None) -> Choose:
    """A token drawn from what is neither forbidden nor truncated, whose probabilities are made to sum to 1."""

    def choose(logits: Tensor, prefix: Tensor) -> tuple[Tensor, Tensor]:
        logits = truncate(constrain(logits, prefix, rules), decoding.top_k, decoding.top_p)
        log_probs = logits.log_softmax(dim=1)
        chosen = torch.multinomial(log_probs.detach().exp(), 1, generator=generator)
        return chosen, log_probs.gather(1, chosen)

    return choose


def truncate(scores: Float[Tensor, "m v"], top_k: int | None, top_p: float | None) -> Float[Tensor, "m v"]:
    """-inf for all but the `top_k` best, then for all but the fewest best whose share reaches `top_p`."""
    if top_k is not None and top_k < scores.shape[1]:
        dropped = torch.ones_like(scores, dtype=torch.bool).scatter(1, scores.detach().topk(top_k).indices, False)
        scores = scores.masked_fill(dropped, -math.inf)
    if top_p is not None and top_p < 1:
        shares, order = scores.detach().softmax(dim=1).sort(dim=1, descending=True)
        dropped_in_order = shares.cumsum(dim=1) - shares >= top_p  # the better ones suffice
        dropped_in_order[:, 0] = False
        dropped = torch.zeros_like(dropped_in_order).scatter(1, order, dropped_in_order)
        scores = scores.masked_fill(dropped, -math.inf)
    return scores


def word_by_word(model: Captioner, state: State, count: int, decoding: Decoding, choose: Choose) -> Decoded:
    """`count` captions from the start, until all have ended or have `max_words`."""
    device = state.image[0].keys.device
    last = torch.full((count,), END, dtype=torch.long, device=device)
    tokens, finished = last[:, None][:, :0], torch.zeros_like(last, dtype=torch.bool)
    log_probs: list[Tensor] = []
    for _ in range(decoding.max_words):
        logits, state = model.step(state, last)
        chosen, log_prob = choose(logits.float() / decoding.temperature, tokens)
        last = chosen.squeeze(1).masked_fill(finished, END)
        tokens = torch.cat([tokens, last[:, None]], dim=1)
        log_probs.append(log_prob.squeeze(1).masked_fill(finished, 0.0))
        finished = last == END
        if finished.all():
            break
    missing = (0, decoding.max_words - len(log_probs))
    return Decoded(F.pad(tokens, missing, value=END), F.pad(torch.stack(log_probs, dim=1), missing))
