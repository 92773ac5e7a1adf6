"""Images -> pictures as a processor of transformers prepares them, by the numbers in its configuration.

`exact` gives the pixels of its PIL way to the bit, `fast` those of its way with torchvision (the same filter on uint8
tensors). Unlike OpenAI's: RGB first, what is transparent on white; an odd rest of the centre crop is cut at the end.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from extraction.preprocess import PreprocessMode, resized_size
from extraction.towers import Resample, Resize

_PIL_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_FINEST, _LARGEST = 1e-5, 100.0  # of the search for the scale in `patch_grid`


@dataclass(frozen=True)
class Pictures:
    """Pictures uint8 (3, h, w): `resolution` x `resolution`, or by `resize=patches` as many whole patches as may be.

    `crop` makes the short side `short_px` long before the centre is cut out.
    """

    mode: PreprocessMode
    resize: Resize
    resample: Resample
    resolution: int
    short_px: int
    patch_px: int
    max_patches: int

    def settings(self) -> dict[str, Any]:
        """What the pixels depend on."""
        known: dict[str, Any] = {"preprocess": self.mode, "resize": self.resize, "resample": self.resample}
        known |= {"convert_rgb": "before_resize", "transparency": "on white"}
        if self.resize == "patches":
            return known | {"max_patches": self.max_patches, "patch_px": self.patch_px}
        return known | {"resolution_px": self.resolution} | ({"short_px": self.short_px} if self._cuts else {})

    def image(self, image: Image.Image) -> UInt8[Tensor, "3 h w"]:
        """A PIL image of any mode."""
        rgb = on_white(image)
        return self._exact(rgb) if self.mode == "exact" else self._fast(np.array(rgb))

    def frame(self, rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[Tensor, "3 n m"]:
        """A decoded frame."""
        return self._exact(Image.fromarray(rgb)) if self.mode == "exact" else self._fast(rgb)

    @property
    def _cuts(self) -> bool:
        return self.resize == "crop" and self.short_px != self.resolution

    def _exact(self, rgb: Image.Image) -> UInt8[Tensor, "3 h w"]:
        resized = rgb.resize(self._resized(*rgb.size), _PIL_FILTERS[self.resample])
        return self._cut(torch.from_numpy(np.array(resized)).permute(2, 0, 1))

    def _fast(self, rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[Tensor, "3 n m"]:
        height, width = rgb.shape[:2]
        new_width, new_height = self._resized(width, height)
        frame = torch.from_numpy(rgb).permute(2, 0, 1).unsqueeze(0)  # stays channels-last: the fast uint8 kernel
        if (new_width, new_height) != (width, height):
            frame = F.interpolate(frame, (new_height, new_width), mode=self.resample, antialias=True)
        return self._cut(frame[0])

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if self.resize == "patches":
            rows, columns = patch_grid(width, height, self.patch_px, self.max_patches)
            return columns * self.patch_px, rows * self.patch_px
        return resized_size(width, height, self.short_px if self.resize == "crop" else self.resolution, self.resize)

    def _cut(self, picture: Tensor) -> Tensor:
        if self.resize != "crop":
            return picture
        top, left = ((side - self.resolution) // 2 for side in picture.shape[1:])
        return picture[:, top : top + self.resolution, left : left + self.resolution]


def on_white(image: Image.Image) -> Image.Image:
    """RGB; what is transparent shows white."""
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def patch_grid(width: int, height: int, patch_px: int, max_patches: int) -> tuple[int, int]:
    """(rows, columns) of NaFlex: as many patches as `max_patches` allows, near the image's own shape.

    The search is the one that the models were trained with, down to its last step: another would end at other grids.
    """

    def at(scale: float) -> tuple[int, int]:
        return max(1, math.ceil(height * scale / patch_px)), max(1, math.ceil(width * scale / patch_px))

    least, most = _FINEST / 10, _LARGEST
    while most - least >= _FINEST:
        middle = (least + most) / 2
        rows, columns = at(middle)
        least, most = (middle, most) if rows * columns <= max_patches else (least, middle)
    return at(least)
