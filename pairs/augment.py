"""Training pictures: what is cut out of an image, and how it is varied. uint8 in, uint8 out, batches at a time.

Every draw comes from the given generator, so that a batch is a function of (seed, epoch, batch number) alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Generator, Tensor

from extraction.preprocess import Resize, crop_offset, resized_size

Crop = Literal["square", "resized", "shift", "center"]
_GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Augment:
    """Options of training pictures; the defaults are the CLIP paper's: a random square of the resized image, no more.

    `crop`: `square` cuts an n x n square at random out of the image with its short side at n; `resized` a random
    rectangle of `scale` times the area (aspect 3/4 to 4/3), resized to n x n; `shift` moves the image by up to
    `shift_px` of its own pixels (black comes in), for small pictures; `center` is the evaluation's view.
    `flip` must stay off where captions say left and right. `colour` (0..1) is the most that brightness, contrast
    and saturation each change; `erase` the probability that a grey square of half the side covers a part.
    """

    crop: Crop = "square"
    scale: Sequence[float] = (0.9, 1.0)
    shift_px: int = 4
    flip: bool = False
    colour: float = 0.0
    erase: float = 0.0

    def __call__(
        self, images: Sequence[Tensor], resolution: int, resize: Resize, generator: Generator
    ) -> UInt8[Tensor, "b 3 n n"]:
        if self.crop == "shift":
            batch = shift(torch.stack(list(images)), self.shift_px, generator)
            batch = fit(batch, resolution, resize)
        elif self.crop == "center":
            batch = torch.cat([fit(image.unsqueeze(0), resolution, resize) for image in images])
        else:
            batch = torch.stack([self._cut(image, resolution, generator) for image in images])
        if self.flip:
            flipped = torch.rand(len(batch), generator=generator) < 0.5
            batch = torch.where(flipped.view(-1, 1, 1, 1), batch.flip(3), batch)
        if self.colour:
            batch = jitter(batch, self.colour, generator)
        return erase(batch, self.erase, generator) if self.erase else batch

    def _cut(self, image: UInt8[Tensor, "3 h w"], resolution: int, generator: Generator) -> UInt8[Tensor, "3 n n"]:
        height, width = image.shape[1:]
        draw = torch.rand(4, generator=generator).tolist()
        if self.crop == "square":
            rows = columns = min(height, width)
        else:
            rows, columns = _rectangle(height, width, self.scale, draw[0], draw[1])
        top, left = int(draw[2] * (height - rows + 1)), int(draw[3] * (width - columns + 1))
        return resized(image[None, :, top : top + rows, left : left + columns], resolution, resolution)[0]


def _rectangle(height: int, width: int, scale: Sequence[float], area: float, aspect: float) -> tuple[int, int]:
    """(rows, columns) of a rectangle: its area uniform in `scale`, the log of its aspect uniform in 3/4..4/3."""
    pixels = height * width * (scale[0] + area * (scale[1] - scale[0]))
    ratio = math.exp((2 * aspect - 1) * math.log(4 / 3))
    rows, columns = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
    return max(1, min(rows, height)), max(1, min(columns, width))


def resized(images: UInt8[Tensor, "b 3 h w"], height: int, width: int) -> UInt8[Tensor, "b 3 i j"]:
    """Antialiased bicubic, as the evaluation's fast preprocessing."""
    if images.shape[2:] == (height, width):
        return images
    return F.interpolate(images, (height, width), mode="bicubic", antialias=True)


def fit(images: UInt8[Tensor, "b 3 h w"], resolution: int, resize: Resize) -> UInt8[Tensor, "b 3 n n"]:
    """The evaluation's view: `crop` keeps the aspect and cuts the centre, `squash` (seed 1) does not."""
    if resize == "squash":
        return resized(images, resolution, resolution)
    width, height = resized_size(images.shape[3], images.shape[2], resolution)
    top, left = crop_offset(height, resolution), crop_offset(width, resolution)
    return resized(images, height, width)[:, :, top : top + resolution, left : left + resolution]


def shift(images: UInt8[Tensor, "b 3 h w"], limit: int, generator: Generator) -> UInt8[Tensor, "b 3 h w"]:
    """Move each image by up to `limit` pixels either way along both axes, black coming in: one gather a batch."""
    height, width = images.shape[2:]
    padded = F.pad(images, (limit,) * 4)
    offsets = torch.randint(0, 2 * limit + 1, (2, len(images), 1), generator=generator)
    rows = (offsets[0] + torch.arange(height)).view(-1, 1, height, 1)
    columns = (offsets[1] + torch.arange(width)).view(-1, 1, 1, width)
    picks = torch.arange(len(images)).view(-1, 1, 1, 1)
    return padded[picks, torch.arange(3).view(1, 3, 1, 1), rows, columns]


def jitter(images: UInt8[Tensor, "b 3 n n"], strength: float, generator: Generator) -> UInt8[Tensor, "b 3 n n"]:
    """Brightness, contrast and saturation of every image times its own factors in 1 - strength .. 1 + strength."""
    factors = 1 + strength * (2 * torch.rand(3, len(images), 1, 1, 1, generator=generator) - 1)
    x = images.float() * factors[0]
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = mean + (x - mean) * factors[1]
    grey = (x * torch.tensor(_GREY).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    return (grey + (x - grey) * factors[2]).clamp(0, 255).round().to(torch.uint8)


def erase(images: UInt8[Tensor, "b 3 n n"], probability: float, generator: Generator) -> UInt8[Tensor, "b 3 n n"]:
    """Grey over a square of half the side, its centre anywhere (DeVries and Taylor 2017)."""
    size, half = images.shape[2], images.shape[2] // 4
    centres: Float[Tensor, "2 b 1"] = torch.rand(2, len(images), 1, generator=generator) * size
    inside = (torch.arange(size) - centres).abs() < half
    chosen = torch.rand(len(images), generator=generator) < probability
    mask = inside[0][:, None, :, None] & inside[1][:, None, None, :] & chosen.view(-1, 1, 1, 1)
    return torch.where(mask, 128, images).to(torch.uint8)
