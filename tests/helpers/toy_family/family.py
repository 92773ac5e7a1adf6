"""A family as a stranger would add it: letters for tokens, PyTorch's own layers, sigmoid, bilinear pictures."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from extraction.precision import Precision, autocast, convert, weights_dtype
from extraction.towers import Color, FoundModel, Probability, Resample, Resize, check_tokens
from utils.errors import UserError

LETTERS = "abcdefghijklmnopqrstuvwxyz "


class ToyImages(nn.Module):
    input_resolution, output_dim = 24, 12
    mean: Color = (0.5, 0.4, 0.3)
    std: Color = (0.2, 0.3, 0.4)
    resize: Resize = "squash"
    resample: Resample = "bilinear"
    map_shape = (16, 3, 3)

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.positions = nn.Parameter(torch.randn(9, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0, batch_first=True)
        self.projection = nn.Linear(16, 12)

    @property
    def dtype(self) -> torch.dtype:
        return weights_dtype(self)

    def trunk(self, x: Tensor) -> Tensor:
        with autocast(self, x.device):
            return self.block(self.patches(x).flatten(2).transpose(1, 2) + self.positions)

    def head(self, tokens: Tensor) -> Tensor:
        with autocast(self, tokens.device):
            return self.projection(tokens.mean(dim=1))

    def grid(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2).unflatten(2, (3, 3))


class ToyModel(nn.Module):
    probability: Probability = "sigmoid"

    def __init__(self, context_length: int = 40) -> None:
        super().__init__()
        self.context_length = context_length
        self.visual = ToyImages()
        self.letters = nn.Embedding(len(LETTERS) + 2, 16, padding_idx=0)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.text_projection = nn.Linear(16, 12)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.logit_bias = nn.Parameter(torch.tensor(-3.0))

    def to_precision(self, precision: Precision, device: torch.device) -> None:
        convert(self, precision, device)

    def encode_image(self, image: Tensor) -> Tensor:
        return self.visual.head(self.visual.trunk(image.to(self.visual.dtype)))

    def encode_text(self, text: Tensor) -> Tensor:
        check_tokens(text, context_length=self.context_length, vocab_size=len(LETTERS) + 2)
        is_text = (text > 0).unsqueeze(-1)
        with autocast(self, text.device):
            x = self.letters(text)
            x = x + self.attention(x, x, x, key_padding_mask=~is_text[..., 0], need_weights=False)[0]
            return self.text_projection((x * is_text).sum(dim=1) / is_text.sum(dim=1))

    def tokenize(self, texts: list[str], *, truncate: bool = False) -> Tensor:
        rows = torch.zeros(len(texts), self.context_length, dtype=torch.int)
        for row, text in enumerate(texts):
            ids = [1, *(LETTERS.find(letter) + 2 for letter in text.lower() if letter in LETTERS)]
            if len(ids) > self.context_length and not truncate:
                raise UserError(f"the text has {len(ids)} tokens, {self.context_length} is the most this model takes")
            rows[row, : len(ids)] = torch.tensor(ids[: self.context_length])[: self.context_length]
        return rows


def load(model_name: str, *, context_length: int = 40) -> FoundModel:
    path = Path(model_name).expanduser()
    if not path.is_file():
        raise UserError(f"model_name={model_name}: expected the path of a toy's weights, found no such file")
    model = ToyModel(context_length)
    content: dict[str, Any] = torch.load(path, weights_only=True)
    model.load_state_dict(content)
    settings = {"context_length": context_length}
    return FoundModel(model=model.eval(), name=path.stem, weights=str(path), files=(path,), settings=settings)
