"""An extractor is a model with options: the part that every family of CLIP models shares."""

import hashlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from extraction.batching import Failed, encode_batches, prefetch
from extraction.device import usable_device
from extraction.encoder import Convert, Encoder
from extraction.output import Output
from extraction.precision import Precision, to_precision
from extraction.preprocess import ConvertRGB, Preprocess, PreprocessMode, Resize
from extraction.preset import check_preset, grid_shape
from extraction.streams import Images, Texts, Videos
from extraction.zero_shot import ShowPredictions, ZeroShot
from media.sampling import sampler_from
from utils.errors import UserError, check_count, check_flags, check_option
from utils.types import Item, Show

OnError = Literal["skip", "partial", "raise"]
Feature = Literal["global", "grid"]
GridDtype = Literal["float32", "float16"]
TextOverflow = Literal["error", "truncate"]


class Extractor:
    """Reads, preprocesses and encodes; `extraction.pipeline` runs it over many items.

    A family of models is a subclass that finds and loads `model` and says who it is: `folder`
    ("<feature_type>/<model>"), `identity` (settings that name the weights) and `weights` (where they come from).
    """

    def __init__(
        self,
        model: Any,
        *,
        folder: str,
        identity: dict[str, Any],
        weights: str,
        batch_size: int = 32,
        features: Feature | Sequence[Feature] = "global",
        grid_pool: int = 1,
        grid_dtype: GridDtype = "float32",
        preset: dict[str, Any] | None = None,
        extraction_fps: float | str | None = None,
        extraction_total: int | None = None,
        device: str = "cuda:0",
        precision: Precision = "auto",
        preprocess: PreprocessMode = "fast",
        resize: Resize | None = None,
        convert_rgb: ConvertRGB = "after_resize",
        exif_orientation: bool = False,
        text_overflow: TextOverflow = "error",
        normalize: bool = False,
        show_pred: bool = False,
        pred_texts: str | list[str] | None = None,
        keep_tmp_files: bool = False,
        tmp_path: str | Path = "./tmp",
        on_error: OnError = "skip",
        convert: Convert = to_precision,
    ) -> None:
        check_count("batch_size", batch_size)
        check_count("grid_pool", grid_pool)
        check_option("grid_dtype", grid_dtype, get_args(GridDtype))
        check_option("preprocess", preprocess, get_args(PreprocessMode))
        check_option("resize", resize, [None, *get_args(Resize)])
        check_option("convert_rgb", convert_rgb, get_args(ConvertRGB))
        check_option("on_error", on_error, get_args(OnError))
        check_option("text_overflow", text_overflow, get_args(TextOverflow))
        check_flags(
            normalize=normalize, show_pred=show_pred, keep_tmp_files=keep_tmp_files, exif_orientation=exif_orientation
        )
        self.batch_size = batch_size
        self.on_error: OnError = on_error
        wanted = _wanted(features, show_pred)
        sampler = sampler_from(extraction_fps, extraction_total)
        grid = grid_shape(model.visual, grid_pool) if "grid" in wanted else None
        check_preset(preset, model_name=identity["model_name"], grid_shape=grid, global_dim=model.visual.output_dim)
        prepare = Preprocess.of(model.visual, preprocess, resize=resize, convert_rgb=convert_rgb)
        encoder = Encoder(model, device=usable_device(device), precision=precision, convert=convert)
        zero_shot = ZeroShot.from_texts(encoder, _as_list(pred_texts)) if show_pred else None
        output = Output(
            encoder,
            folder=folder,
            settings=identity | _settings(encoder, wanted, grid_pool, grid_dtype, normalize, zero_shot),
            weights=weights,
            wanted=wanted,
            grid_pool=grid_pool,
            grid_dtype=grid_dtype,
            normalize=normalize,
            zero_shot=zero_shot,
        )
        self._shows = show_pred
        self.folder = folder
        self.videos = Videos(
            output,
            prepare,
            sampler,
            on_damage="keep" if on_error == "partial" else "raise",
            tmp_path=Path(tmp_path) if keep_tmp_files else None,
        )
        self.images = Images(output, prepare, exif_orientation=exif_orientation, ahead=2 * batch_size)
        self.texts = Texts(output, truncate=text_overflow == "truncate", ahead=2 * batch_size)
        self.streams = {"video": self.videos, "image": self.images, "text": self.texts}

    @property
    def shows(self) -> list[Show]:
        """What belongs to this extractor's own options."""
        return [ShowPredictions()] if self._shows else []

    def extract(self, path: str | Path) -> dict[str, np.ndarray]:
        """A video: `{"clip": (t, d) float32, "fps": (), "timestamps_ms": (t,) float64}`; MediaError if unusable."""
        return self._extract("video", Item(Path(path), Path(path).stem))

    def extract_image(self, path: str | Path) -> dict[str, np.ndarray]:
        """`{"clip": (1, d) float32}`, with a row for every frame of an animated image; MediaError if unusable."""
        return self._extract("image", Item(Path(path), Path(path).stem))

    def extract_texts(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """`{"clip": (n, d) float32}`; MediaError for a text that is too long unless `text_overflow="truncate"`."""
        return self._extract("text", Item(Path("texts"), "texts", tuple(texts)))

    def _extract(self, kind: str, item: Item) -> dict[str, np.ndarray]:
        stream = self.streams[kind]
        events = prefetch([item], stream.read, workers=1, depth=2 * self.batch_size)
        with closing(events):  # pyright: ignore[reportArgumentType]
            (result,) = encode_batches(events, stream.encode, self.batch_size)
        if isinstance(result, Failed):
            raise result.error
        features = stream.finish(result)
        for each in self.shows:
            each.show(features)
        return features.arrays


def _wanted(features: Feature | Sequence[Feature], show_pred: bool) -> tuple[Feature, ...]:
    listed = [features] if isinstance(features, str) else list(features)
    if not listed:
        raise UserError("features=[]: expected global, grid or both")
    for feature in listed:
        check_option("features", feature, get_args(Feature))
    if show_pred and "global" not in listed:
        raise UserError("show_pred=true compares whole frames with texts: give features=global or [global, grid]")
    return tuple(feature for feature in get_args(Feature) if feature in listed)


def _settings(
    encoder: Encoder,
    wanted: Sequence[Feature],
    grid_pool: int,
    grid_dtype: GridDtype,
    normalize: bool,
    zero_shot: ZeroShot | None,
) -> dict[str, Any]:
    """What the numbers depend on, beside the weights. Results on disk count as done only while all of it is unchanged.

    Every kind of features has a key of its own: what is saved beyond today's wishes does no harm.
    """
    settings: dict[str, Any] = {"precision": encoder.precision, "normalize": normalize}
    if "global" in wanted:
        settings["global"] = True
    if "grid" in wanted:
        settings["grid"] = {"pool": grid_pool} | ({"dtype": grid_dtype} if grid_dtype != "float32" else {})
    if zero_shot:
        texts = "\n".join(zero_shot.texts)
        settings["pred_texts_sha256"] = hashlib.sha256(texts.encode()).hexdigest()
    return settings


def _as_list(texts: str | Sequence[str] | None) -> list[str] | None:
    if texts is None:
        return None
    texts = [str(text) for text in texts] if isinstance(texts, list | tuple) else [str(texts)]
    if not texts:
        raise UserError("pred_texts=[]: expected texts, or null for the 400 classes of Kinetics")
    return texts
