"""The blocks of the captioner: pre-norm attention and feed-forward layers, with keys and values that can be kept.

Paper: Vaswani et al. 2017, "Attention Is All You Need"; norms come before the layers instead of after the sums.
Attention is one class for all three uses. What is attended to comes as `KeysValues`: those of an image are computed
once and serve all its captions, those of a caption grow by one at each step of decoding.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.clip.layers import LayerNorm


class UnbiasedLayerNorm(nn.Module):
    """weight * (x - mean) / (std + eps) + bias with the unbiased std (n - 1), as the original captioner has it.

    `LayerNorm` divides by sqrt(biased variance + eps) instead. Computed in float32, as there.
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        std, mean = torch.std_mean(y, dim=-1, keepdim=True)
        return (self.weight.float() * (y - mean) / (std + self.eps) + self.bias.float()).to(x.dtype)


NORMS: dict[str, type[nn.Module]] = {"standard": LayerNorm, "unbiased": UnbiasedLayerNorm}


class KeysValues(NamedTuple):
    """What attention looks at."""

    keys: Float[Tensor, "b heads t d"]
    values: Float[Tensor, "b heads t d"]

    def followed_by(self, other: "KeysValues") -> "KeysValues":
        return KeysValues(torch.cat([self.keys, other.keys], dim=2), torch.cat([self.values, other.values], dim=2))

    def select(self, rows: Tensor) -> "KeysValues":
        return KeysValues(self.keys[rows], self.values[rows])


class Attention(nn.Module):
    """Multi-head attention in two parts: `keys_values` of what is looked at, then `forward` of what looks."""

    def __init__(self, width: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"attention width {width} is not a multiple of its {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def keys_values(self, x: Float[Tensor, "b t c"]) -> KeysValues:
        return KeysValues(self._heads(self.key(x)), self._heads(self.value(x)))

    def forward(
        self,
        x: Float[Tensor, "b t c"],
        seen: KeysValues,
        mask: Bool[Tensor, "b #heads #t n"] | None = None,
    ) -> Float[Tensor, "b t c"]:
        """`mask` is true where x may look."""
        query, dropout = self._heads(self.query(x)), self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(query, seen.keys, seen.values, attn_mask=mask, dropout_p=dropout)
        return self.out(x.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (b, heads, t, d)


def feed_forward(width: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width))


class EncoderBlock(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x)), each with dropout."""

    def __init__(self, width: int, heads: int, hidden: int, *, dropout: float, layer_norm: str) -> None:
        super().__init__()
        self.norm_1 = NORMS[layer_norm](width)
        self.attention = Attention(width, heads, dropout=dropout)
        self.norm_2 = NORMS[layer_norm](width)
        self.mlp = feed_forward(width, hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b n c"], mask: Bool[Tensor, "b 1 1 n"] | None = None) -> Float[Tensor, "b n c"]:
        y = self.norm_1(x)
        x = x + self.dropout(self.attention(y, self.attention.keys_values(y), mask))
        return x + self.dropout(self.mlp(self.norm_2(x)))


class DecoderBlock(nn.Module):
    """x += self-attention; x += attention to the image; x += mlp: each of norm(x), each with dropout."""

    def __init__(self, width: int, heads: int, hidden: int, *, dropout: float, layer_norm: str) -> None:
        super().__init__()
        self.norm_1 = NORMS[layer_norm](width)
        self.self_attention = Attention(width, heads, dropout=dropout)
        self.norm_2 = NORMS[layer_norm](width)
        self.cross_attention = Attention(width, heads, dropout=dropout)
        self.norm_3 = NORMS[layer_norm](width)
        self.mlp = feed_forward(width, hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "m t c"],
        image: KeysValues,
        past: KeysValues | None = None,
        mask: Bool[Tensor, "m 1 t t"] | None = None,
        image_mask: Bool[Tensor, "b 1 1 n"] | None = None,
    ) -> tuple[Float[Tensor, "m t c"], KeysValues]:
        """m captions of b images, m / b to each, at t new positions after those of `past`; also gives past + new."""
        b, (m, t, c) = len(image.keys), x.shape
        y = self.norm_1(x)
        new = self.self_attention.keys_values(y)
        seen = past.followed_by(new) if past else new
        x = x + self.dropout(self.self_attention(y, seen, mask))
        # All captions of an image are one long row of queries, so that its keys and values need no copies.
        y = self.norm_2(x).reshape(b, m // b * t, c)
        x = x + self.dropout(self.cross_attention(y, image, image_mask)).view(m, t, c)
        return x + self.dropout(self.mlp(self.norm_3(x))), seen


def sinusoids(length: int, width: int) -> Float[Tensor, "t c"]:
    """Positions: sin and cos by turns, wavelengths from 2 pi to 10000 * 2 pi."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(length).unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
