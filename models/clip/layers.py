"""The transformer that both towers share.

Paper: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision".
Original code: openai/CLIP, `clip/model.py`. Deliberate differences:
- batch first, (b, t, c), and fused attention (`scaled_dot_product_attention`) with `is_causal` for the text mask;
- the input projection is a `Linear`, so that the encoder can swap how linears run; its keys in a state dict keep
  the original names `in_proj_weight` and `in_proj_bias`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

# Texts are computed as far as the longest of a batch, but at least so far: from this width on a text's features are the
# same to the bit whatever stands beside it; narrower batches go through other kernels (1e-6 in fp32, 0.05 in bf16).
NARROWEST = 16


def constructor_arguments(names: dict[str, Any]) -> dict[str, Any]:
    """Called with `locals()` as a tower's constructor begins: what it was built with, so that it can be built again.

    Towers keep it as `arguments`; a checkpoint carries it (see `models.clip.description`).
    """
    return {name: value for name, value in names.items() if name not in ("self", "__class__")}


class LayerNorm(nn.LayerNorm):
    """Computed in float32 whatever the input, as in the original: half precision loses the small variances."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x): what OpenAI's weights were trained with; exact GELU costs up to 0.04 in the features."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, type[nn.Module]] = {"quick_gelu": QuickGELU, "gelu": nn.GELU}


class Attention(nn.Module):
    """Multi-head self-attention with the parameters of `nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"attention width {width} is not a multiple of its {heads} heads")
        self.heads = heads
        self.causal = causal
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.register_state_dict_post_hook(_save_original_names)
        self.register_load_state_dict_pre_hook(_load_original_names)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        b, t, c = x.shape
        q, k, v = self.in_proj(x).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)  # (b, heads, t, d)
        x = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out_proj(x.transpose(1, 2).reshape(b, t, c))


def _save_original_names(module: nn.Module, state: dict[str, Tensor], prefix: str, _metadata: Any) -> None:
    for name in ("weight", "bias"):
        if f"{prefix}in_proj.{name}" in state:
            state[f"{prefix}in_proj_{name}"] = state.pop(f"{prefix}in_proj.{name}")


def _load_original_names(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for name in ("weight", "bias"):
        if f"{prefix}in_proj_{name}" in state:
            state[f"{prefix}in_proj.{name}"] = state.pop(f"{prefix}in_proj_{name}")


class Block(nn.Module):
    """Pre-norm residual block: x += attention(ln_1(x)); x += mlp(ln_2(x))."""

    def __init__(self, width: int, heads: int, *, causal: bool, activation: str) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(width)
        self.attn = Attention(width, heads, causal=causal)
        self.ln_2 = LayerNorm(width)
        self.mlp = MLP(width, activation)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class MLP(nn.Module):
    """width -> 4 width -> width, with the original's names."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.gelu = ACTIVATIONS[activation]()
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        return self.c_proj(self.gelu(self.c_fc(x)))


class Transformer(nn.Module):
    """A stack of blocks; heads are 64 wide in every CLIP model."""

    def __init__(self, width: int, layers: int, heads: int, *, causal: bool = False, activation: str = "quick_gelu"):
        super().__init__()
        blocks = [Block(width, heads, causal=causal, activation=activation) for _ in range(layers)]
        self.resblocks = nn.Sequential(*blocks)
        self.width, self.layers = width, layers

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        return self.resblocks(x)

    def initialize(self) -> None:
        """The original's initial weights: residual branches shrink with depth."""
        residual_std = self.width**-0.5 * (2 * self.layers) ** -0.5
        for block in self.resblocks:
            assert isinstance(block, Block)
            nn.init.normal_(block.attn.in_proj.weight, std=self.width**-0.5)
            nn.init.zeros_(block.attn.in_proj.bias)
            nn.init.normal_(block.attn.out_proj.weight, std=residual_std)
            nn.init.zeros_(block.attn.out_proj.bias)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * self.width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=residual_std)
