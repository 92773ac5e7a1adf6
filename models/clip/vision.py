"""The two image towers of CLIP: a vision transformer and a modified ResNet.

Both are read as trunk -> head: `trunk` is the pass through the layers (patches or map), `head` makes one vector an
image of it, `grid` a map. An image tower says how its images are prepared: `input_resolution`, `mean`, `std`, `resize`,
`resample`.
Paper: Radford et al. 2021, section 2.4. Original code: openai/CLIP, `clip/model.py`; same parameter names.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from extraction.preprocess import MEAN, STD
from extraction.towers import Color, Resample, Resize
from models.clip.layers import LayerNorm, Transformer, constructor_arguments
from models.clip.positions import Interpolation, check_resolution, resize_positions

REDUCTION = 32  # pixels of the image to one of a ResNet's last map, along each side


class VisionTransformer(nn.Module):
    """Patches + class token -> blocks -> class token -> embedding. Input (b, 3, n, n) with n = `resolution`."""

    mean: Color = MEAN
    std: Color = STD
    resize: Resize = "crop"
    resample: Resample = "bicubic"

    def __init__(
        self,
        *,
        resolution: int,
        patch_size: int,
        width: int,
        layers: int,
        heads: int,
        embed_dim: int,
        activation: str = "quick_gelu",
    ) -> None:
        self.arguments = constructor_arguments(locals())
        super().__init__()
        self.input_resolution, self.patch_size, self.output_dim = resolution, patch_size, embed_dim
        self.conv1 = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty((resolution // patch_size) ** 2 + 1, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, activation=activation)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, embed_dim))

    @property
    def dtype(self) -> torch.dtype:
        return self.conv1.weight.dtype

    def trunk(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t c"]:
        """All tokens after the last block, class token first: before `ln_post` and not projected."""
        x = self.conv1(x).flatten(2).transpose(1, 2)  # (b, n, c), row-major
        class_token = self.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([class_token, x], dim=1) + self.positional_embedding.to(x.dtype)
        return self.transformer(self.ln_pre(x))

    def head(self, tokens: Float[Tensor, "b t c"]) -> Float[Tensor, "b e"]:
        return self.ln_post(tokens[:, 0]) @ self.proj

    def grid(self, tokens: Float[Tensor, "b t c"]) -> Float[Tensor, "b c i j"]:
        """The patches' tokens as they leave `trunk`, where they stand in the image."""
        return tokens[:, 1:].transpose(1, 2).unflatten(2, self.map_shape[1:])

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """(c, i, j) of `grid`."""
        side = self.input_resolution // self.patch_size
        return self.transformer.width, side, side

    def at_resolution(self, resolution: int, interpolation: Interpolation = "bicubic") -> None:
        """From now on for images of `resolution` pixels, a multiple of the patch. Before any change of precision."""
        if resolution != self.input_resolution:
            check_resolution(resolution, self.patch_size)
            side = resolution // self.patch_size
            self.positional_embedding = resize_positions(self.positional_embedding, side, interpolation)
            self.input_resolution = self.arguments["resolution"] = resolution

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b e"]:
        return self.head(self.trunk(x))

    def initialize(self) -> None:
        """The original's: PyTorch's defaults but for these three."""
        for parameter in (self.class_embedding, self.positional_embedding, self.proj):
            nn.init.normal_(parameter, std=self.transformer.width**-0.5)


class Bottleneck(nn.Module):
    """ResNet bottleneck whose stride is an average pool before conv3 and before the shortcut's 1x1 convolution."""

    expansion = 4

    def __init__(self, in_width: int, width: int, stride: int = 1) -> None:
        super().__init__()
        out_width = width * self.expansion
        self.conv1 = nn.Conv2d(in_width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(width, out_width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_width)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or in_width != out_width:
            shortcut = {
                "-1": nn.AvgPool2d(stride),
                "0": nn.Conv2d(in_width, out_width, 1, bias=False),
                "1": nn.BatchNorm2d(out_width),
            }
            self.downsample = nn.Sequential(OrderedDict(shortcut))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(self.avgpool(out)))
        return F.relu(out + self.downsample(x))


class AttentionPool(nn.Module):
    """One attention step whose query is the mean of the map: (b, c, h, w) -> (b, e)."""

    def __init__(self, *, grid: int, width: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.empty(grid**2 + 1, width))
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, embed_dim)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e"]:
        x = x.flatten(2).transpose(1, 2)  # (b, n, c)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + self.positional_embedding.to(x.dtype)
        projected = self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x)
        q, k, v = (p.unflatten(2, (self.heads, -1)).transpose(1, 2) for p in projected)  # (b, heads, t, d)
        x = F.scaled_dot_product_attention(q, k, v)  # (b, heads, 1, d)
        return self.c_proj(x.flatten(1))


class ModifiedResNet(nn.Module):
    """ResNet with a three-convolution stem, anti-aliased strides and an attention pool. Input (b, 3, n, n)."""

    mean: Color = MEAN
    std: Color = STD
    resize: Resize = "crop"
    resample: Resample = "bicubic"

    def __init__(self, *, resolution: int, layers: Sequence[int], width: int, heads: int, embed_dim: int) -> None:
        self.arguments = constructor_arguments(locals())
        super().__init__()
        self.input_resolution, self.output_dim = resolution, embed_dim
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        self.layer1 = _stage(width, width, layers[0])
        self.layer2 = _stage(width * 4, width * 2, layers[1], stride=2)
        self.layer3 = _stage(width * 8, width * 4, layers[2], stride=2)
        self.layer4 = _stage(width * 16, width * 8, layers[3], stride=2)
        self.attnpool = AttentionPool(grid=resolution // REDUCTION, width=width * 32, heads=heads, embed_dim=embed_dim)

    @property
    def dtype(self) -> torch.dtype:
        return self.conv1.weight.dtype

    def trunk(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c i j"]:
        """The map after `layer4`, 1/32 of the input's size: what the attention pool gets."""
        for conv, bn in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(bn(conv(x)))
        return self.layer4(self.layer3(self.layer2(self.layer1(self.avgpool(x)))))

    def head(self, grid: Float[Tensor, "b c i j"]) -> Float[Tensor, "b e"]:
        return self.attnpool(grid)

    def grid(self, x: Float[Tensor, "b c i j"]) -> Float[Tensor, "b c i j"]:
        """The map of `trunk` itself: before the attention pool, without its positions."""
        return x

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """(c, i, j) of `grid`."""
        side = self.input_resolution // REDUCTION
        return self.attnpool.positional_embedding.shape[1], side, side

    def at_resolution(self, resolution: int, interpolation: Interpolation = "bicubic") -> None:
        """From now on for images of `resolution` pixels, a multiple of 32. Before any change of precision."""
        if resolution != self.input_resolution:
            check_resolution(resolution, REDUCTION)
            pool = self.attnpool
            pool.positional_embedding = resize_positions(
                pool.positional_embedding, resolution // REDUCTION, interpolation
            )
            self.input_resolution = self.arguments["resolution"] = resolution

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b e"]:
        return self.head(self.trunk(x))

    def initialize(self) -> None:
        """The original's: attention pool by its width; every block starts as the identity (bn3 gain 0)."""
        std = self.attnpool.c_proj.in_features**-0.5
        nn.init.normal_(self.attnpool.positional_embedding, std=std)
        for proj in (self.attnpool.q_proj, self.attnpool.k_proj, self.attnpool.v_proj, self.attnpool.c_proj):
            nn.init.normal_(proj.weight, std=std)
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)


def _stage(in_width: int, width: int, blocks: int, stride: int = 1) -> nn.Sequential:
    first = Bottleneck(in_width, width, stride)
    return nn.Sequential(first, *(Bottleneck(width * Bottleneck.expansion, width) for _ in range(blocks - 1)))
