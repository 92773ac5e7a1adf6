"""From grid features to captions: `decode` by any method, `decode_beams` for all that beam search found.

The model stays in the mode it is in: evaluation for captions that are used, training for samples with dropout, as
self-critical training draws them.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from models.captioner.beam import Beams, beam_search
from models.captioner.constraints import Constraint, constrain, constraints_of
from models.captioner.model import Captioner, State
from models.captioner.options import Decoding
from models.captioner.vocabulary import END, Vocabulary
from utils.errors import UserError


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
        """True for what was chosen: up to the first 0 of each caption, and for that 0."""
        ended = self.tokens == END
        return ended.cumsum(dim=-1) - ended.long() == 0


def decode(
    model: Captioner,
    grid: Float[Tensor, "b n c"],
    decoding: Decoding,
    vocabulary: Vocabulary,
    *,
    grid_mask: Bool[Tensor, "b n"] | None = None,
    generator: torch.Generator | None = None,
    with_grad: bool = False,
) -> Decoded:
    """`samples_per_image` captions of each image, (b n, max_words).

    `generator`, of the model's device, makes samples repeatable. `with_grad`: gradients flow from `log_probs` to the
    weights through this very pass, dropout included.
    """
    if decoding.method == "beam":
        beams = decode_beams(model, grid, decoding, vocabulary, grid_mask=grid_mask, with_grad=with_grad)
        return Decoded(beams.tokens[:, 0], beams.log_probs[:, 0])
    with nullcontext() if with_grad else torch.no_grad():
        state, rules = _start(model, grid, grid_mask, decoding, vocabulary)
        return _word_by_word(model, state, len(grid) * decoding.samples_per_image, decoding, rules, generator)


def decode_beams(
    model: Captioner,
    grid: Float[Tensor, "b n c"],
    decoding: Decoding,
    vocabulary: Vocabulary,
    *,
    grid_mask: Bool[Tensor, "b n"] | None = None,
    with_grad: bool = False,
) -> Beams:
    """The `beam_size` best captions of each image, with their scores. UserError unless `method` is beam."""
    if decoding.method != "beam":
        raise UserError(f"method={decoding.method}: expected beam")
    with nullcontext() if with_grad else torch.no_grad():
        state, rules = _start(model, grid, grid_mask, decoding, vocabulary)
        return beam_search(model, state, len(grid), decoding, rules)


def _start(
    model: Captioner, grid: Tensor, grid_mask: Tensor | None, decoding: Decoding, vocabulary: Vocabulary
) -> tuple[State, list[Constraint]]:
    if decoding.max_words > model.max_words:
        raise UserError(f"max_words={decoding.max_words}: this captioner was made for {model.max_words} at most")
    if len(vocabulary) != model.vocab_size:
        raise UserError(f"a vocabulary of {len(vocabulary)} words for a captioner of {model.vocab_size}: not its own")
    return model.start(model.encode(grid, grid_mask), grid_mask), constraints_of(decoding, vocabulary)


def _word_by_word(
    model: Captioner,
    state: State,
    count: int,
    decoding: Decoding,
    rules: list[Constraint],
    generator: torch.Generator | None,
) -> Decoded:
    """`count` captions from the start, without looking back, until all have ended or have `max_words`."""
    device = state.image[0].keys.device
    last = torch.full((count,), END, dtype=torch.long, device=device)
    tokens, finished = last[:, None][:, :0], torch.zeros_like(last, dtype=torch.bool)
    log_probs: list[Tensor] = []
    for _ in range(decoding.max_words):
        logits, state = model.step(state, last)
        logits = logits.float() / decoding.temperature
        if decoding.method == "greedy":  # the likeliest token that is not forbidden
            of_all = constrain(logits.log_softmax(dim=1), tokens, rules)
            chosen = of_all.detach().argmax(dim=1, keepdim=True)
        else:  # one of what is neither forbidden nor truncated, whose probabilities are made to sum to 1
            logits = truncate(constrain(logits, tokens, rules), decoding.top_k, decoding.top_p)
            of_all = logits.log_softmax(dim=1)
            chosen = torch.multinomial(of_all.detach().exp(), 1, generator=generator)
        last = chosen.squeeze(1).masked_fill(finished, END)
        tokens = torch.cat([tokens, last[:, None]], dim=1)
        log_probs.append(of_all.gather(1, chosen).squeeze(1).masked_fill(finished, 0.0))
        finished = last == END
        if finished.all():
            break
    missing = (0, decoding.max_words - len(log_probs))
    return Decoded(F.pad(tokens, missing, value=END), F.pad(torch.stack(log_probs, dim=1), missing))


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
