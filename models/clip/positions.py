"""Images of another size than a tower was trained with: its table of learned positions is resized.

Original: timm's `resize_pos_embed`, as OpenAI-CLIP-Feature calls it for 448 pixels. timm's filter was bilinear up to
0.4.12 and is bicubic since 0.5.4. Deliberate difference: no dependence on timm; a size that is no whole number of
patches is refused.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from utils.errors import UserError

Interpolation = Literal["bicubic", "bilinear"]


def resize_positions(table: nn.Parameter, side: int, interpolation: Interpolation) -> nn.Parameter:
    """(1 + n * n, c) -> (1 + side * side, c): row 0 is kept (class token, mean of the map), the others are a square.

    A table that has the size already comes back as it is.
    """
    native = math.isqrt(len(table) - 1)
    if side == native:
        return table
    square = table[1:].detach().t().unflatten(1, (native, native)).unsqueeze(0)  # (1, c, n, n)
    square = F.interpolate(square, (side, side), mode=interpolation, align_corners=False)
    resized = torch.cat([table[:1].detach(), square[0].flatten(1).t()])
    return nn.Parameter(resized, requires_grad=table.requires_grad)


def check_resolution(resolution: int, multiple: int) -> None:
    """UserError unless `resolution` is a whole number of patches of `multiple` pixels."""
    below = resolution // multiple * multiple
    if resolution != below or below < 1:
        near = f"{below} and {below + multiple}" if below > 0 else str(multiple)
        raise UserError(f"resolution={resolution}: expected a multiple of {multiple} pixels; nearest: {near}")
