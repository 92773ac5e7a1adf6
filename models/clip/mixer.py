"""Mixer towers: CLIP's two towers with token mixing in place of attention.

Idea: Tolstikhin et al. 2021, "MLP-Mixer: An all-MLP Architecture for Vision". Original of this form: CLIP-mixer.
As there: hidden sizes are four times the mixed size for tokens too (the paper fixes 384), QuickGELU, a class token,
no positions. A token mixer is a matrix over positions, so an image size or text length other than the one a tower
was built for is refused. Text mixes all positions, those after the end token and later words included.
Deliberate difference: two options of the text tower, both off by default, `pad_mask` and `pool`.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from extraction.preprocess import MEAN, STD
from extraction.towers import Color, Resample, Resize
from models.clip.layers import MLP, LayerNorm, constructor_arguments
from models.clip.positions import Interpolation
from models.clip.tokenizer import at_width, tokenize
from utils.errors import UserError, check_option

POOLS = ("eot", "mean")


class MixerBlock(nn.Module):
    """x += token_mlp(ln_1(x) transposed) transposed; x += mlp(ln_2(x))."""

    def __init__(self, tokens: int, width: int, *, activation: str = "quick_gelu") -> None:
        super().__init__()
        self.ln_1 = LayerNorm(width)
        self.token_mlp = MLP(tokens, activation)
        self.ln_2 = LayerNorm(width)
        self.mlp = MLP(width, activation)

    def forward(self, x: Float[Tensor, "b t c"], mask: Bool[Tensor, "b t"] | None = None) -> Float[Tensor, "b t c"]:
        """Rows where `mask` is false give nothing to the others."""
        y = self.ln_1(x)
        if mask is not None:
            y = y * mask.unsqueeze(-1)
        x = x + self.token_mlp(y.transpose(1, 2)).transpose(1, 2)
        return x + self.mlp(self.ln_2(x))


class Mixer(nn.Module):
    """A stack of blocks, for a fixed number of tokens."""

    def __init__(self, tokens: int, width: int, layers: int, *, activation: str = "quick_gelu") -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([MixerBlock(tokens, width, activation=activation) for _ in range(layers)])
        self.width, self.layers = width, layers

    def forward(self, x: Float[Tensor, "b t c"], mask: Bool[Tensor, "b t"] | None = None) -> Float[Tensor, "b t c"]:
        for block in self.resblocks:
            x = block(x, mask)
        return x

    def initialize(self) -> None:
        """As the original: stds follow the width, in the token mixer too (not its number of tokens)."""
        residual_std = self.width**-0.5 * (2 * self.layers) ** -0.5
        for block in self.resblocks:
            assert isinstance(block, MixerBlock)
            for mlp in (block.token_mlp, block.mlp):
                nn.init.normal_(mlp.c_fc.weight, std=(2 * self.width) ** -0.5)
                nn.init.normal_(mlp.c_proj.weight, std=residual_std)


class VisionMixer(nn.Module):
    """Patches + class token -> blocks -> class token -> embedding. Input (b, 3, n, n) with n = `resolution` only."""

    mean: Color = MEAN
    std: Color = STD
    resize: Resize = "crop"
    resample: Resample = "bicubic"

    def __init__(
        self,
        *,
        resolution: int = 224,
        patch_size: int = 32,
        width: int = 768,
        layers: int = 12,
        embed_dim: int = 512,
        activation: str = "quick_gelu",
    ) -> None:
        self.arguments = constructor_arguments(locals())
        super().__init__()
        self.input_resolution, self.patch_size, self.output_dim = resolution, patch_size, embed_dim
        self.conv1 = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=False)
        scale = width**-0.5
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.ln_pre = LayerNorm(width)
        self.mixer = Mixer((resolution // patch_size) ** 2 + 1, width, layers, activation=activation)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, embed_dim))

    @property
    def dtype(self) -> torch.dtype:
        return self.conv1.weight.dtype

    def trunk(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t c"]:
        """All tokens after the last block, class token first: before `ln_post` and not projected."""
        n = self.input_resolution
        if x.shape[2:] != (n, n):
            raise UserError(f"this Mixer takes images of {n} x {n} pixels only, found {x.shape[3]} x {x.shape[2]}")
        x = self.conv1(x).flatten(2).transpose(1, 2)  # (b, n, c), row-major
        class_token = self.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        return self.mixer(self.ln_pre(torch.cat([class_token, x], dim=1)))

    def head(self, tokens: Float[Tensor, "b t c"]) -> Float[Tensor, "b e"]:
        return self.ln_post(tokens[:, 0]) @ self.proj

    def grid(self, tokens: Float[Tensor, "b t c"]) -> Float[Tensor, "b c i j"]:
        """The patches' tokens as they leave `trunk`, where they stand in the image."""
        return tokens[:, 1:].transpose(1, 2).unflatten(2, self.map_shape[1:])

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """(c, i, j) of `grid`."""
        side = self.input_resolution // self.patch_size
        return self.mixer.width, side, side

    def at_resolution(self, resolution: int, interpolation: Interpolation = "bicubic") -> None:
        """UserError for any size but its own."""
        n = self.input_resolution
        if resolution != n:
            raise UserError(f"resolution={resolution}: a Mixer has weights for every position; this one takes {n} only")

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b e"]:
        return self.head(self.trunk(x))

    def initialize(self) -> None:
        """The original keeps PyTorch's defaults for this tower."""


class TextMixer(nn.Module):
    """Token ids (b, context_length) -> (b, embed_dim), read at the end token.

    `pad_mask`: what stands after the end token is left out of the mixing, so that a feature no longer depends on the
    embedding of id 0. `pool=mean`: the mean of the tokens (up to the end token, with `pad_mask`) instead of the last.
    """

    def __init__(
        self,
        *,
        context_length: int = 77,
        vocab_size: int = 49408,
        width: int = 512,
        layers: int = 12,
        embed_dim: int = 512,
        activation: str = "quick_gelu",
        pad_mask: bool = False,
        pool: str = "eot",
    ) -> None:
        self.arguments = constructor_arguments(locals())
        super().__init__()
        check_option("pool", pool, POOLS)
        self.context_length, self.vocab_size = context_length, vocab_size
        self.pooled_dim, self.output_dim = width, embed_dim
        self.pad_mask, self.pool = pad_mask, pool
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.mixer = Mixer(context_length, width, layers, activation=activation)
        self.ln_final = LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, embed_dim))

    @property
    def dtype(self) -> torch.dtype:
        return self.text_projection.dtype

    def forward(self, tokens: Int[Tensor, "b t"]) -> Float[Tensor, "b e"]:
        return self.project(self.pooled(tokens))

    def pooled(self, tokens: Int[Tensor, "b t"]) -> Float[Tensor, "b c"]:
        """The features before their projection into the space that images share."""
        if tokens.shape[1] != self.context_length:
            raise UserError(f"this Mixer takes texts of {self.context_length} tokens only, found {tokens.shape[1]}")
        end = tokens.argmax(dim=-1)  # the end token has the largest id
        mask = torch.arange(tokens.shape[1], device=tokens.device) <= end.unsqueeze(1) if self.pad_mask else None
        x = self.token_embedding(tokens).to(self.dtype)  # (b, t, c)
        x = self.ln_final(self.mixer(x, mask))
        if self.pool == "eot":
            return x[torch.arange(len(x), device=x.device), end]
        if mask is None:
            return x.mean(dim=1)
        return (x * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def project(self, pooled: Float[Tensor, "b c"]) -> Float[Tensor, "b e"]:
        return pooled @ self.text_projection

    def tokenize(self, texts: list[str], *, truncate: bool = False) -> Int[Tensor, "b t"]:
        """CLIP's own tokens at this tower's length; see `models.clip.tokenizer.tokenize`."""
        return tokenize(texts, context_length=self.context_length, truncate=truncate)

    def fitted(self, tokens: Int[Tensor, "b t"]) -> Int[Tensor, "b n"]:
        """Ids of `clip.tokenize`, whatever their width, at this tower's length."""
        return at_width(tokens, context_length=self.context_length, vocab_size=self.vocab_size)

    def initialize(self) -> None:
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.text_projection, std=self.mixer.width**-0.5)
        self.mixer.initialize()
