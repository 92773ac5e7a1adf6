"""Is a caption grammatical? A head on CLIP's text features, and the file it comes in."""

import os
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from utils.errors import UserError, first_line

GRAMMATICAL = 1  # the class


class GrammarHead(nn.Module):
    """Text features before their projection -> logits for ungrammatical (0) and grammatical (1).

    Paper: Cho et al. 2022, section 3.3; two layers without biases.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, 2, bias=False)

    def forward(self, pooled: Float[Tensor, "b c"]) -> Float[Tensor, "b 2"]:
        return self.output(self.hidden(pooled).relu())


def load_head(path: Path) -> tuple[GrammarHead, str]:
    """The head and the prefix it was trained with, from any file of `--config-name caption_grammar`.

    The same file holds the text tower, for `models.clip.weights.load_model`.
    """
    if not os.path.isfile(path):
        raise UserError(f"grammar_path={path}: no such file; --config-name caption_grammar writes grammar.pt")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = {
            key.removeprefix("head."): value.float()
            for key, value in content["loss"].items()
            if key.startswith("head.")
        }
        head = GrammarHead(state["hidden.weight"].shape[1])
        head.load_state_dict(state)
        return head.eval().requires_grad_(False), str(content["prefix"])
    except Exception as error:  # whatever unpickling finds wrong with a file
        raise UserError(
            f"grammar_path={path}: expected a file of --config-name caption_grammar ({first_line(error):.99})"
        ) from error
