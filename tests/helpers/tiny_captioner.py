"""Captioners small enough to be made anew for every test, and all that one needs to try them."""

import torch
from torch import Tensor

from models.captioner.model import Captioner
from models.captioner.vocabulary import UNK, Vocabulary

GRID_WIDTH = 12


def tiny_captioner(
    vocab_size: int = 7, *, seed: int = 1, layer_norm: str = "standard", max_words: int = 8, end_bias: float = 1.0
) -> Captioner:
    """Random weights with strong opinions, the same for the same seed; in evaluation mode.

    Greedy captions of `grids(12)` have 2 to 8 tokens.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Captioner(
            vocab_size=vocab_size,
            grid_width=GRID_WIDTH,
            width=16,
            layers=2,
            heads=2,
            hidden=32,
            layer_norm=layer_norm,
            max_words=max_words,
        )
        model.initialize()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:  # gains and biases that differ, so that none can be forgotten
                    parameter.add_(torch.randn_like(parameter) / 4)
            model.output.weight.mul_(3)
            model.output.bias[0] += end_bias
    return model.eval()


def vocabulary(size: int = 7, *, unknown: bool = False) -> Vocabulary:
    words = [f"word{number}" for number in range(1, size + 1)]
    return Vocabulary([*words[:-1], UNK] if unknown else words)


def grids(images: int = 3, cells: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(images, cells, GRID_WIDTH, generator=torch.Generator().manual_seed(seed))


def log_probs_after(model: Captioner, grid: Tensor, prefix: list[int]) -> Tensor:
    """(V + 1,) for one image (1, n, c), by a pass over the whole prefix."""
    with torch.no_grad():
        return model(grid, torch.tensor([[[0, *prefix]]]))[0, 0, -1].log_softmax(dim=0)
