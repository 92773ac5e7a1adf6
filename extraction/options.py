"""The options of extraction that captioning shares, each checked when it is given: before a model is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from extraction.preprocess import ConvertRGB, Preparation, PreprocessMode, preparation_for
from extraction.towers import ImageTower, Resize
from media.limits import DEFAULT_LIMITS, Limits
from media.sampling import Sampler, sampler_from
from utils.errors import UserError, check_count, check_flags, check_number, check_option

OnError = Literal["skip", "partial", "raise"]
Feature = Literal["global", "grid"]
GridDtype = Literal["float32", "float16"]
TextOverflow = Literal["error", "truncate"]


@dataclass(frozen=True, kw_only=True)
class FrameOptions:
    """Which frames of videos, and what becomes of inputs that fail.

    `extraction_fps` (ffmpeg's rule) and `extraction_total` (rows a video) exclude each other; without them, every
    frame. With `keep_tmp_files` re-timed videos go through files in `tmp_path`. `on_error=partial` keeps the frames of
    damaged videos that decode. `limits` is what one file may ask for.
    """

    extraction_fps: float | str | None = None
    extraction_total: int | None = None
    keep_tmp_files: bool = False
    tmp_path: str | Path = "./tmp"
    on_error: OnError = "skip"
    limits: Limits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        check_option("on_error", self.on_error, get_args(OnError))
        check_flags(keep_tmp_files=self.keep_tmp_files)
        self.sampler()
        if self.extraction_total is not None and self.extraction_total > self.limits.max_rows:
            raise UserError(
                f"extraction_total={self.extraction_total}: more than max_rows={self.limits.max_rows} allows"
            )

    def sampler(self) -> Sampler:
        return sampler_from(self.extraction_fps, self.extraction_total)


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """How pictures are prepared: see `extraction.preprocess`. `resize` and `convert_rgb` None are the model's own."""

    preprocess: PreprocessMode = "fast"
    resize: Resize | None = None
    convert_rgb: ConvertRGB | None = None
    exif_orientation: bool = False
    limits: Limits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        check_option("preprocess", self.preprocess, get_args(PreprocessMode))
        check_option("resize", self.resize, [None, *get_args(Resize)])
        check_option("convert_rgb", self.convert_rgb, [None, *get_args(ConvertRGB)])
        check_flags(exif_orientation=self.exif_orientation)

    def for_tower(self, visual: ImageTower) -> Preparation:
        return preparation_for(visual, self.preprocess, resize=self.resize, convert_rgb=self.convert_rgb)


@dataclass(frozen=True, kw_only=True)
class ReaderOptions:
    """Who reads files: `workers` processes, by default as many as suit the kind of input; 0 are threads of this one.

    A file without progress in reading for `read_timeout` seconds, or that takes more than `read_memory` GB to read, is
    given up; in processes only. Where processes cannot be forked (macOS, Windows), threads read.
    """

    workers: int | None = None
    read_timeout: float = 120
    read_memory: float = 4

    def __post_init__(self) -> None:
        if self.workers is not None:
            check_count("workers", self.workers, least=0)
        check_number("read_timeout", self.read_timeout, least=1)
        check_number("read_memory", self.read_memory, least=0.1)


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """Which features, and how they are given back.

    `preset` is what `preset=...` promises: `{"name", "grid": [n, c], "global": e}`. `pred_texts=None` stands for the
    400 classes of Kinetics. A text that is too long fails (`text_overflow=error`) or is cut (`truncate`).
    """

    features: Feature | Sequence[Feature] = "global"
    grid_pool: int = 1
    grid_dtype: GridDtype = "float32"
    normalize: bool = False
    preset: Mapping[str, Any] | None = None
    show_pred: bool = False
    pred_texts: str | Sequence[str] | None = None
    text_overflow: TextOverflow = "error"

    def __post_init__(self) -> None:
        check_count("grid_pool", self.grid_pool)
        check_option("grid_dtype", self.grid_dtype, get_args(GridDtype))
        check_option("text_overflow", self.text_overflow, get_args(TextOverflow))
        check_flags(normalize=self.normalize, show_pred=self.show_pred)
        listed = list(self.features) if isinstance(self.features, list | tuple) else [self.features]
        if not listed:
            raise UserError("features=[]: expected global, grid or both")
        for feature in listed:
            check_option("features", feature, get_args(Feature))
        if self.show_pred and "global" not in listed:
            raise UserError("show_pred=true compares whole frames with texts: give features=global or [global, grid]")
        if self.show_pred and self.texts == []:
            raise UserError("pred_texts=[]: expected texts, or null for the 400 classes of Kinetics")

    @property
    def wanted(self) -> tuple[Feature, ...]:
        """Of "global" and "grid", in this order."""
        listed = (self.features,) if isinstance(self.features, str) else self.features
        return tuple(feature for feature in get_args(Feature) if feature in listed)

    @property
    def texts(self) -> list[str] | None:
        """`pred_texts` as a list."""
        if self.pred_texts is None:
            return None
        listed = self.pred_texts if isinstance(self.pred_texts, list | tuple) else [self.pred_texts]
        return [str(text) for text in listed]
