"""The text tower of CLIP: a causal transformer read at the end token.

Paper: Radford et al. 2021, section 2.4. Original code: openai/CLIP, `clip/model.py`; same parameter names.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.clip.layers import NARROWEST, LayerNorm, Transformer, constructor_arguments
from models.clip.tokenizer import at_width, tokenize


class TextTransformer(nn.Module):
    """Token ids (b, context_length) -> (b, embed_dim)."""

    def __init__(
        self,
        *,
        context_length: int = 77,
        vocab_size: int = 49408,
        width: int = 512,
        layers: int = 12,
        heads: int = 8,
        embed_dim: int = 512,
        activation: str = "quick_gelu",
    ) -> None:
        self.arguments = constructor_arguments(locals())
        super().__init__()
        self.context_length, self.vocab_size = context_length, vocab_size
        self.pooled_dim, self.output_dim = width, embed_dim
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.transformer = Transformer(width, layers, heads, causal=True, activation=activation)
        self.ln_final = LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, embed_dim))

    @property
    def dtype(self) -> torch.dtype:
        return self.text_projection.dtype

    def forward(self, tokens: Int[Tensor, "b t"]) -> Float[Tensor, "b e"]:
        return self.project(self.pooled(tokens))

    def pooled(self, tokens: Int[Tensor, "b t"]) -> Float[Tensor, "b c"]:
        """The features at the end token before their projection into the space that images share."""
        end = tokens.argmax(dim=-1)  # the end token has the largest id
        # Causal attention, read at the end: what stands after the last end changes nothing and costs time.
        tokens = tokens[:, : max(int(end.max()) + 1, NARROWEST)] if len(tokens) else tokens
        positions = self.positional_embedding[: tokens.shape[1]].to(self.dtype)
        x = self.token_embedding(tokens).to(self.dtype) + positions  # (b, t, c)
        x = self.ln_final(self.transformer(x))
        return x[torch.arange(len(x), device=x.device), end]

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
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=self.transformer.width**-0.5)
        self.transformer.initialize()
