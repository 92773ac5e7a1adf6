"""From grid features to captions: `decode` by any method, `decode_beams` for all that beam search found.

The model stays in the mode it is in: evaluation for captions that are used, training for samples with dropout, as
self-critical training draws them.
"""

from contextlib import nullcontext

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.captioner.beam import beam_search
from models.captioner.constraints import constraints_of
from models.captioner.decoded import Beams, Decoded
from models.captioner.model import Captioner
from models.captioner.options import Decoding
from models.captioner.stepwise import greedy, sample, word_by_word
from models.captioner.vocabulary import Vocabulary
from utils.errors import UserError


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
    _check(model, decoding, vocabulary)
    rules = constraints_of(decoding, vocabulary)
    choose = greedy(rules) if decoding.method == "greedy" else sample(decoding, rules, generator)
    with nullcontext() if with_grad else torch.no_grad():
        state = model.start(model.encode(grid, grid_mask), grid_mask)
        return word_by_word(model, state, len(grid) * decoding.samples_per_image, decoding, choose)


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
    _check(model, decoding, vocabulary)
    with nullcontext() if with_grad else torch.no_grad():
        state = model.start(model.encode(grid, grid_mask), grid_mask)
        return beam_search(model, state, len(grid), decoding, constraints_of(decoding, vocabulary))


def _check(model: Captioner, decoding: Decoding, vocabulary: Vocabulary) -> None:
    if decoding.max_words > model.max_words:
        raise UserError(f"max_words={decoding.max_words}: this captioner was made for {model.max_words} at most")
    if len(vocabulary) != model.vocab_size:
        raise UserError(f"a vocabulary of {len(vocabulary)} words for a captioner of {model.vocab_size}: not its own")
