"""The image sides of transformers' models, with the face of `extraction.towers.ImageTower`."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from extraction.precision import autocast, weights_dtype
from extraction.preprocess import ConvertRGB, PreprocessMode
from extraction.towers import Color, Resample, Resize
from models.transformers.pictures import Pictures
from utils.errors import UserError

Pixels = Tensor | Sequence[Tensor]  # each (3, h, w), float32
Outputs = tuple[Any, list[tuple[int, int]]]


class PatchTower:
    """Pictures of one size (CLIP, MetaCLIP 2, SigLIP). `trunk` gives what the library's vision model gives.

    The grid is its `last_hidden_state` without the class token: SigLIP's is normalised, CLIP's is not.
    """

    def __init__(self, model: Any, pictures: Pictures, mean: Color, std: Color) -> None:
        self._model, self._pictures, self.mean, self.std = model, pictures, mean, std
        self.resize: Resize = pictures.resize
        self.resample: Resample = pictures.resample
        self.input_resolution: int = pictures.resolution
        side = pictures.resolution // model.vision_model.config.patch_size
        self.map_shape = (model.vision_model.config.hidden_size, side, side)
        with torch.no_grad():  # no configuration says how wide the vectors are in every family
            self.output_dim: int = project(model, "visual", torch.zeros(1, self.map_shape[0])).shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return weights_dtype(self._model.vision_model)

    def preparation(self, mode: PreprocessMode, resize: Resize | None, convert_rgb: ConvertRGB | None) -> Pictures:
        """UserError for what the library does not do."""
        if resize == "patches":
            raise UserError("resize=patches: this model takes pictures of one size; expected crop, squash or null")
        return _prepared_by(self._pictures, mode, resize, convert_rgb)

    def trunk(self, x: Float[Tensor, "b 3 n n"]) -> Any:
        vision = self._model.vision_model
        resized = self.input_resolution != vision.config.image_size
        with autocast(vision, x.device):
            return vision(pixel_values=x.to(self.dtype), interpolate_pos_encoding=resized)

    def head(self, outputs: Any) -> Float[Tensor, "b e"]:
        with autocast(self._model, outputs.pooler_output.device):
            return project(self._model, "visual", outputs.pooler_output)

    def grid(self, outputs: Any) -> Float[Tensor, "b c i j"]:
        _, i, j = self.map_shape
        return outputs.last_hidden_state[:, -i * j :].transpose(1, 2).unflatten(2, (i, j))


class NaFlexTower:
    """SigLIP 2 NaFlex: pictures of any shape, in whole patches.

    All are filled up to `max_patches` patches, which a mask hides, whatever is beside them: so a picture is computed
    alike in any company.
    """

    def __init__(self, model: Any, pictures: Pictures, mean: Color, std: Color) -> None:
        self._vision, self._pictures, self.mean, self.std = model.vision_model, pictures, mean, std
        self.resize: Resize = pictures.resize
        self.resample: Resample = pictures.resample
        self.input_resolution: int = pictures.resolution
        self.max_patches, self.patch_px = pictures.max_patches, pictures.patch_px
        side = math.isqrt(self.max_patches)
        self.map_shape = (self._vision.config.hidden_size, side, side)
        self.output_dim: int = self._vision.config.hidden_size

    @property
    def dtype(self) -> torch.dtype:
        return weights_dtype(self._vision)

    def preparation(self, mode: PreprocessMode, resize: Resize | None, convert_rgb: ConvertRGB | None) -> Pictures:
        """Any `resize`: the square pictures of `crop` and `squash` are as good to it as others."""
        return _prepared_by(self._pictures, mode, resize, convert_rgb)

    def trunk(self, pictures: Pixels) -> Outputs:
        """With the (rows, columns) of patches of each."""
        p = self.patch_px
        shapes = [(picture.shape[1] // p, picture.shape[2] // p) for picture in pictures]
        values = torch.stack([self._patches(picture) for picture in pictures]).to(self.dtype)
        sizes = torch.tensor(shapes, device=values.device)
        mask = (torch.arange(self.max_patches, device=values.device) < sizes.prod(dim=1, keepdim=True)).int()
        with autocast(self._vision, values.device):
            return self._vision(values, mask, sizes), shapes  # by place: the mask's name is another in older versions

    def _patches(self, picture: Float[Tensor, "3 h w"]) -> Float[Tensor, "n c"]:
        """Row by row, the colours of a pixel side by side."""
        p = self.patch_px
        patches = picture.unfold(1, p, p).unfold(2, p, p).permute(1, 2, 3, 4, 0).reshape(-1, 3 * p * p)
        return F.pad(patches, (0, 0, 0, self.max_patches - len(patches)))

    def head(self, outputs: Outputs) -> Float[Tensor, "b e"]:
        return outputs[0].pooler_output

    def grid(self, outputs: Outputs) -> Any:
        """A list: (c, i, j) for each picture, as large as its patches."""
        found, shapes = outputs
        rows = zip(found.last_hidden_state, shapes, strict=True)
        return [states[: i * j].T.unflatten(1, (i, j)) for states, (i, j) in rows]


def project(model: Any, side: str, pooled: Tensor) -> Tensor:
    """By `visual_projection` or `text_projection`, as they are now; SigLIP's pooled vectors are its features."""
    projection = getattr(model, f"{side}_projection", None)
    return pooled if projection is None else projection(pooled)


def _prepared_by(
    pictures: Pictures, mode: PreprocessMode, resize: Resize | None, convert_rgb: ConvertRGB | None
) -> Pictures:
    if convert_rgb == "after_resize":
        raise UserError("convert_rgb=after_resize: feature_type=transformers makes pictures RGB first; leave it out")
    wanted = resize or pictures.resize
    short_px = pictures.short_px if wanted == pictures.resize else pictures.resolution
    return replace(pictures, mode=mode, resize=wanted, short_px=short_px)
