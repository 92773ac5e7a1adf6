"""The captioner: a transformer from the grid features of an image to the words of its caption.

Paper: Cho et al. 2022, "Fine-grained Image Captioning with CLIP Reward", which takes the transformer of
ImageCaptioning.pytorch (Luo). Same architecture and initial weights; 54,914,832 parameters for COCO's 9,487 words.
Deliberate differences:
- keys and values are kept while decoding; there the prefix is computed anew for every word. With dropout on, the
  words of a sample therefore share the noise of the words before them, as in a pass over the whole caption;
- the captions of an image share one encoder pass and one set of its keys and values;
- `LayerNorm` is PyTorch's unless the original's is asked for (`layer_norm="unbiased"`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from models.captioner.layers import NORMS, DecoderBlock, EncoderBlock, KeysValues, sinusoids
from models.captioner.vocabulary import END
from models.clip.layers import constructor_arguments
from utils.errors import UserError, check_count, check_number, check_option


@dataclass(frozen=True)
class State:
    """What decoding keeps: of b images the keys and values, of their m captions those of the words so far, by layer."""

    image: tuple[KeysValues, ...]
    image_mask: Bool[Tensor, "b 1 1 n"] | None
    past: tuple[KeysValues, ...] = ()

    @property
    def length(self) -> int:
        """Tokens so far, the beginning included."""
        return self.past[0].keys.shape[2] if self.past else 0

    def select(self, rows: Int64[Tensor, " m"]) -> "State":
        """The captions go on from these rows of the present ones; each must be of the same image as the old."""
        return replace(self, past=tuple(layer.select(rows) for layer in self.past))


class Captioner(nn.Module):
    """Grid features (b, n, grid_width) and tokens -> logits for the next token: 0 (the end) and `vocab_size` words."""

    positions: Tensor  # (max_words + 1, width)

    def __init__(
        self,
        *,
        vocab_size: int,
        grid_width: int = 2048,
        width: int = 512,
        layers: int = 6,
        heads: int = 8,
        hidden: int = 2048,
        dropout: float = 0.1,
        grid_dropout: float = 0.5,
        layer_norm: str = "standard",
        max_words: int = 20,
    ) -> None:
        self.arguments = constructor_arguments(locals())
        super().__init__()
        _check(self.arguments)
        self.vocab_size, self.grid_width, self.max_words = vocab_size, grid_width, max_words
        self.grid_embedding = nn.Sequential(nn.Linear(grid_width, width), nn.ReLU(), nn.Dropout(grid_dropout))
        sizes = (width, heads, hidden)
        self.encoder = nn.ModuleList(
            [EncoderBlock(*sizes, dropout=dropout, layer_norm=layer_norm) for _ in range(layers)]
        )
        self.encoder_norm = NORMS[layer_norm](width)
        self.word_embedding = nn.Embedding(vocab_size + 1, width)
        self.register_buffer("positions", sinusoids(max_words + 1, width), persistent=False)
        self.word_dropout = nn.Dropout(dropout)
        self.decoder = nn.ModuleList(
            [DecoderBlock(*sizes, dropout=dropout, layer_norm=layer_norm) for _ in range(layers)]
        )
        self.decoder_norm = NORMS[layer_norm](width)
        self.output = nn.Linear(width, vocab_size + 1)

    @property
    def dtype(self) -> torch.dtype:
        return self.output.weight.dtype

    def encode(
        self, grid: Float[Tensor, "b n c"], grid_mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """The image as the decoder sees it. `grid_mask` is true for real cells, one or more in each image."""
        if grid.shape[-1] != self.grid_width:
            raise UserError(f"grid features are {grid.shape[-1]} wide, this captioner was made for {self.grid_width}")
        x = self.grid_embedding(grid.to(self.dtype))
        for block in self.encoder:
            x = block(x, _for_keys(grid_mask))
        return self.encoder_norm(x)

    def forward(
        self,
        grid: Float[Tensor, "b n c"],
        tokens: Int64[Tensor, "b k t"],
        grid_mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b k t v"]:
        """Logits for the token after each of `tokens`, which begin with 0: k captions of each of the b images.

        A 0 behind the beginning is padding, which no position looks at.
        """
        b, k, t = tokens.shape
        state = self.start(self.encode(grid, grid_mask), grid_mask)
        tokens = tokens.reshape(b * k, t)
        causal = torch.ones(t, t, dtype=torch.bool, device=tokens.device).tril()
        padding = F.pad(tokens[:, 1:] == END, (1, 0), value=False)  # (b k, t)
        mask = causal & ~padding[:, None, None, :]  # (b k, 1, t, t)
        x, _ = self._decode(tokens, state, mask)
        return self.output(x).view(b, k, t, -1)

    def start(self, memory: Float[Tensor, "b n d"], grid_mask: Bool[Tensor, "b n"] | None = None) -> State:
        """The state before the first token, for any number of captions of each image."""
        image = tuple(block.cross_attention.keys_values(memory) for block in self._decoder_blocks())
        return State(image, _for_keys(grid_mask))

    def step(self, state: State, tokens: Int64[Tensor, " m"]) -> tuple[Float[Tensor, "m v"], State]:
        """Logits for the token after `tokens`, the captions' newest; those of image i are rows i m/b to (i + 1) m/b."""
        x, state = self._decode(tokens.unsqueeze(1), state, mask=None)
        return self.output(x.squeeze(1)), state

    def _decode(self, tokens: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        start, end = state.length, state.length + tokens.shape[1]
        if end > len(self.positions):
            raise UserError(f"a caption of {end - 1} words: this captioner takes {self.max_words} (max_words)")
        scale = math.sqrt(self.word_embedding.embedding_dim)
        x = self.word_dropout(self.word_embedding(tokens) * scale + self.positions[start:end])  # (m, t, c)
        past = []
        for layer, block in enumerate(self._decoder_blocks()):
            before = state.past[layer] if state.past else None
            x, seen = block(x, state.image[layer], before, mask, state.image_mask)
            past.append(seen)
        return self.decoder_norm(x), replace(state, past=tuple(past))

    def _decoder_blocks(self) -> list[DecoderBlock]:
        return list(self.decoder)  # pyright: ignore[reportReturnType]

    def initialize(self) -> None:
        """Xavier's uniform weights, as the original; the grid's embedding, gains and biases keep PyTorch's."""
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1 and not name.startswith("grid_embedding."):
                nn.init.xavier_uniform_(parameter)


def _for_keys(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask[:, None, None, :]  # (b, heads, queries, n)


def _check(arguments: Mapping[str, Any]) -> None:
    """UserError for sizes and shares that no captioner can have."""
    check_option("layer_norm", arguments["layer_norm"], NORMS)
    for key in ("vocab_size", "grid_width", "width", "layers", "heads", "hidden", "max_words"):
        check_count(key, arguments[key])
    for key in ("dropout", "grid_dropout"):
        check_number(key, arguments[key], least=0, most=1)
    if arguments["width"] % arguments["heads"]:
        raise UserError(f"width={arguments['width']}: expected a multiple of heads={arguments['heads']}")
