"""How a model's processor prepares pictures: its configuration, in our words."""

import math
from pathlib import Path
from typing import Any

from extraction.towers import Color, Resample
from models.transformers.pictures import Pictures
from utils.errors import UserError

_FILES = ("preprocessor_config.json", "processor_config.json")
_RESAMPLES: dict[int, Resample] = {2: "bilinear", 3: "bicubic"}  # by Pillow's numbers


def read_processor(
    folder: Path, vision: Any, *, resolution: int | None, max_patches: int | None
) -> tuple[Pictures, Color, Color]:
    """How pictures are prepared, their mean and standard deviation; `vision` is the configuration of the image side.

    UserError for what this project does not do.
    """
    from transformers import AutoImageProcessor

    if not any((folder / name).is_file() for name in _FILES):
        raise UserError(f"{folder}: expected the configuration of a processor ({' or '.join(_FILES)}), found none")
    processor: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    resample = _RESAMPLES.get(int(processor.resample))
    if resample is None or not processor.do_resize or not processor.do_rescale:
        raise _not_done(folder, "do_resize, do_rescale and bilinear or bicubic resampling", processor)
    if not math.isclose(processor.rescale_factor, 1 / 255):
        raise _not_done(folder, "rescale_factor=1/255", processor)
    mean, std = _colours(processor)
    if hasattr(processor, "max_num_patches"):
        most = max_patches or processor.max_num_patches
        side = processor.patch_size * math.isqrt(most)
        pictures = Pictures("exact", "patches", resample, side, side, processor.patch_size, most)
    else:
        pictures = _of_one_size(folder, processor, resample, vision, resolution)
    if pictures.patch_px != vision.patch_size:
        raise UserError(
            f"{folder}: its processor has patches of {pictures.patch_px} pixels, its model of {vision.patch_size}"
        )
    return pictures, mean, std


def _of_one_size(folder: Path, processor: Any, resample: Resample, vision: Any, resolution: int | None) -> Pictures:
    size, cut = dict(processor.size), dict(processor.crop_size or {}) if getattr(processor, "do_center_crop", 0) else {}
    size, cut = ({key: value for key, value in each.items() if value} for each in (size, cut))
    short_px: int = size.get("shortest_edge", size.get("height", 0))
    squash = set(size) == {"height", "width"} and size["height"] == size["width"] and cut in ({}, size)
    crop = set(size) == {"shortest_edge"} and len(set(cut.values())) == 1 and cut["height"] <= short_px
    if not squash and not crop:
        raise _not_done(folder, "a square `size`, or its shortest_edge with a smaller square `crop_size`", processor)
    own = size["height"] if squash else cut["height"]
    n = resolution or own
    if resolution is None and own != vision.image_size:
        raise UserError(
            f"{folder}: the processor makes pictures of {own} pixels, the model is for {vision.image_size}: give "
            "resolution=..., one of the two or another; the positions are then interpolated"
        )
    if n % vision.patch_size:
        below, above = n - n % vision.patch_size, n + -n % vision.patch_size
        raise UserError(f"resolution={n}: expected a multiple of {vision.patch_size} (the patch): {below} or {above}")
    return Pictures(
        "exact", "squash" if squash else "crop", resample, n, round(short_px * n / own), vision.patch_size, 0
    )


def _colours(processor: Any) -> tuple[Color, Color]:
    if not processor.do_normalize:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = (tuple(float(value) for value in values) for values in (processor.image_mean, processor.image_std))
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _not_done(folder: Path, expected: str, processor: Any) -> UserError:
    keys = ("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor")
    found = {key: getattr(processor, key, None) for key in keys}
    return UserError(f"{folder}: its processor is not supported here: expected {expected}, found {found}")
