"""Images -> what the towers see: short side to n pixels (bicubic), centre crop n x n, RGB, then normalised.

A tower may ask for other numbers, another filter, or the whole image squashed into n x n (`Preprocess.of`).

Two ways to the same pixels, both ending in uint8 (3, n, n) so that little data travels between threads:
- `exact`: the official PIL pipeline, to the bit;
- `fast`: the same antialiased filter on uint8 tensors; at most 2 of 255 levels away, in few pixels, and several times
  as fast.

openai/CLIP resizes in the image's own mode, then makes it RGB; OpenAI-CLIP-Feature the other way round (`convert_rgb`).
For photos that is the same; for palettes, 1 bit and transparency not at all: PIL resizes the first two by nearest
neighbour, and weights the colours of the third by their opacity.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from extraction.towers import Color, ImageTower, Resample, Resize
from utils.errors import MediaError, UserError

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
PreprocessMode = Literal["exact", "fast"]
ConvertRGB = Literal["after_resize", "before_resize"]
_MOST_PIXELS = 100_000_000  # of a resized picture
_PIL_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class Preparation(Protocol):
    """How pictures are prepared; `Preprocess`, for one. By plain values: it travels to other processes."""

    def image(self, image: Image.Image) -> Any: ...

    def frame(self, rgb: np.ndarray) -> Any: ...

    def settings(self) -> dict[str, Any]: ...


@runtime_checkable
class OwnPreparation(Protocol):
    """An image tower whose pictures are prepared by other rules than `Preprocess`: it says how."""

    def preparation(self, mode: PreprocessMode, resize: Resize | None, convert_rgb: ConvertRGB | None) -> Preparation:
        """UserError for a `resize` or `convert_rgb` that it does not have; None are its own."""
        ...


def preparation_for(
    visual: ImageTower,
    mode: PreprocessMode = "exact",
    *,
    resize: Resize | None = None,
    convert_rgb: ConvertRGB | None = None,
) -> Preparation:
    """As the image tower says, except for what is given."""
    if isinstance(visual, OwnPreparation):
        return visual.preparation(mode, resize, convert_rgb)
    return Preprocess.of(visual, mode, resize=resize, convert_rgb=convert_rgb or "after_resize")


def resized_size(width: int, height: int, resolution: int, resize: Resize = "crop") -> tuple[int, int]:
    """(width, height) with the short side at `resolution`; the long side is truncated, not rounded.

    MediaError where that would be a hundred megapixels: of 1 x 100,000, five thousand.
    """
    if resize == "squash":
        return resolution, resolution
    long = int(resolution * max(width, height) / min(width, height))
    if resolution * long > _MOST_PIXELS:
        raise MediaError(
            f"{width} x {height} pixels are too narrow for resize=crop; use resize=squash, or cut a part out"
        )
    return (resolution, long) if width <= height else (long, resolution)


def crop_offset(size: int, resolution: int) -> int:
    """Python's round (half to even), as torchvision's CenterCrop."""
    return round((size - resolution) / 2)


@dataclass(frozen=True)
class Preprocess:
    """`preprocess(pil_image)` gives the float tensor (3, n, n) of `clip.load`'s transform."""

    resolution: int
    mode: PreprocessMode = "exact"
    resize: Resize = "crop"  # `squash` gives up the aspect ratio and keeps the edges
    mean: Color = MEAN
    std: Color = STD
    convert_rgb: ConvertRGB = "after_resize"
    resample: Resample = "bicubic"

    @classmethod
    def of(
        cls,
        visual: ImageTower,
        mode: PreprocessMode = "exact",
        *,
        resize: Resize | None = None,
        convert_rgb: ConvertRGB = "after_resize",
    ) -> "Preprocess":
        """As the image tower says, except for a `resize` that is given."""
        if resize == "patches":
            raise UserError("resize=patches: this model takes pictures of one size; expected crop, squash or null")
        return cls(
            visual.input_resolution,
            mode,
            resize or visual.resize,
            visual.mean,
            visual.std,
            convert_rgb,
            visual.resample,
        )

    def settings(self) -> dict[str, Any]:
        """What the pixels depend on."""
        return {
            "preprocess": self.mode,
            "resolution_px": self.resolution,
            "resize": self.resize,
            "convert_rgb": self.convert_rgb,
            "resample": self.resample,
        }

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 n n"]:
        return normalize(self.pixels(image).unsqueeze(0), self.mean, self.std)[0]

    def pixels(self, image: Image.Image) -> UInt8[Tensor, "3 n n"]:
        """A PIL image of any mode -> uint8 (3, n, n), always the exact way."""
        width, height = resized_size(*image.size, self.resolution, self.resize)
        left, top = crop_offset(width, self.resolution), crop_offset(height, self.resolution)
        if self.convert_rgb == "before_resize":
            image = image.convert("RGB")
        image = image.resize((width, height), _PIL_FILTERS[self.resample])
        image = image.crop((left, top, left + self.resolution, top + self.resolution)).convert("RGB")
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def image(self, image: Image.Image) -> UInt8[Tensor, "3 n n"]:
        """A PIL image of any mode -> uint8 (3, n, n), by `mode`; the fast way only for RGB and grey.

        In other modes the order of resizing and conversion changes more than the speed is worth.
        """
        if self.mode == "fast" and image.mode in ("RGB", "L"):
            return self.frame(np.array(image if image.mode == "RGB" else image.convert("RGB")))
        return self.pixels(image)

    def frame(self, rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[Tensor, "3 n n"]:
        """A decoded frame, uint8 RGB (h, w, 3) -> uint8 (3, n, n), by `mode`."""
        if self.mode == "exact":
            return self.pixels(Image.fromarray(rgb))
        height, width = rgb.shape[:2]
        new_width, new_height = resized_size(width, height, self.resolution, self.resize)
        left, top = crop_offset(new_width, self.resolution), crop_offset(new_height, self.resolution)
        frame = torch.from_numpy(rgb).permute(2, 0, 1).unsqueeze(0)  # stays channels-last: the fast uint8 kernel
        if (new_width, new_height) != (width, height):
            frame = F.interpolate(frame, (new_height, new_width), mode=self.resample, antialias=True)
        return frame[0, :, top : top + self.resolution, left : left + self.resolution]


def normalize(pixels: UInt8[Tensor, "b 3 h w"], mean: Color = MEAN, std: Color = STD) -> Float[Tensor, "b 3 h w"]:
    """uint8 0..255 -> float32, the same operations in the same order as ToTensor and Normalize."""
    shift = torch.tensor(mean, device=pixels.device).view(1, 3, 1, 1)
    scale = torch.tensor(std, device=pixels.device).view(1, 3, 1, 1)
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255).sub_(shift).div_(scale)
