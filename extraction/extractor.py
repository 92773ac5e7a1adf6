"""A model with options, for videos, images and texts. `extraction.pipeline` runs it over many items."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from extraction.batching import Failed, encode_batches
from extraction.encoder import Encoder, grid_shape
from extraction.options import FeatureOptions, FrameOptions, PictureOptions
from extraction.streams import Images, ModelFeatures, Texts, Videos
from extraction.threads import prefetch
from extraction.towers import LoadedModel
from extraction.zero_shot import ShowPredictions, TextPredictor
from utils.errors import UserError, check_count
from utils.types import Item, Show


class FeatureExtractor:
    """Reads, prepares and encodes; a model of any family.

    Where rows of a video are re-timed (`extraction_fps`, `extraction_total`), `timestamps_ms` are the rows' own times
    and `source_timestamps_ms` those of the frames shown. Features are float32 and not L2-normalised unless `normalize`.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        frames: FrameOptions | None = None,
        pictures: PictureOptions | None = None,
        features: FeatureOptions | None = None,
        batch_size: int = 32,
    ) -> None:
        check_count("batch_size", batch_size)
        frames, pictures = frames or FrameOptions(), pictures or PictureOptions()
        features = features or FeatureOptions()
        self.batch_size, self.on_error, self.folder = batch_size, frames.on_error, preset_folder(model, features.preset)
        visual = model.model.visual
        grid = grid_shape(visual, features.grid_pool) if "grid" in features.wanted else None
        check_preset(
            features.preset,
            model_name=str(model.settings["model_name"]),
            grid_shape=grid,
            global_dim=visual.output_dim,
        )
        prepare = pictures.for_tower(visual)
        encoder = Encoder(model.model, device=model.device, precision=model.precision)
        predictor = TextPredictor.from_texts(encoder, features.texts) if features.show_pred else None
        settings = {**model.settings, **_settings(encoder, features, predictor)}
        output = ModelFeatures(model, encoder, features, self.folder, settings, predictor)
        # An image and its captions share their id, so not one folder.
        of_texts = replace(output, folder=f"{self.folder}_texts", predictor=None)
        self.videos = Videos(output, prepare, frames)
        self.images = Images(
            output, prepare, exif_orientation=pictures.exif_orientation, limits=pictures.limits, ahead=2 * batch_size
        )
        self.texts = Texts(
            of_texts,
            encoder,
            truncate=features.text_overflow == "truncate",
            ahead=2 * batch_size,
        )
        self.streams = {"video": self.videos, "image": self.images, "text": self.texts}
        self.shows: list[Show] = [ShowPredictions()] if features.show_pred else []

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
        events = prefetch([item], stream.rows.read, workers=1, depth=2 * self.batch_size)
        with closing(events):
            (result,) = encode_batches(events, stream.encode, self.batch_size)
        if isinstance(result, Failed):
            raise result.error
        features = stream.finish(result)
        for each in self.shows:
            each.show(features)
        return features.arrays


def preset_folder(model: LoadedModel, preset: Mapping[str, Any] | None) -> str:
    """ "clip/ViT-B_32_448": where results stand; behind the name of the weights where they are not the preset's own."""
    if preset is None:
        return model.folder
    name, own = str(preset["name"]).replace("/", "_"), model.name.replace("/", "_")
    return f"{model.feature_type}/{name if name.startswith(own) else f'{own}_{name}'}"


def check_preset(
    preset: Mapping[str, Any] | None, *, model_name: str, grid_shape: tuple[int, int] | None, global_dim: int
) -> None:
    """UserError where the model and its options give other shapes than the preset says.

    `preset`: `{"name", "grid": [n, c], "global": e}`. `grid_shape` is None where no grid is wanted.
    """
    if preset is None:
        return
    n, c = preset["grid"]
    problem = ""
    if grid_shape is not None and grid_shape != (n, c):
        problem = f"{n} x {c} grid features, model_name={model_name} gives {grid_shape[0]} x {grid_shape[1]}"
    elif global_dim != preset["global"]:
        problem = f"global features of {preset['global']} numbers, model_name={model_name} gives {global_dim}"
    if problem:
        raise UserError(
            f"preset={preset['name']} describes {problem}: drop one of the two (resolution and grid_pool count, too)"
        )


def _settings(encoder: Encoder, options: FeatureOptions, predictor: TextPredictor | None) -> dict[str, Any]:
    """What the numbers depend on, beside the model. Results on disk count as done only while all of it is unchanged.

    Every kind of features has a key of its own: what is saved beyond today's wishes does no harm.
    """
    settings: dict[str, Any] = {"precision": encoder.precision, "normalize": options.normalize}
    if "global" in options.wanted:
        settings["global"] = True
    if "grid" in options.wanted:
        dtype = {"dtype": options.grid_dtype} if options.grid_dtype != "float32" else {}
        settings["grid"] = {"pool": options.grid_pool} | dtype
    if predictor:
        settings["pred_texts_sha256"] = hashlib.sha256("\n".join(predictor.texts).encode()).hexdigest()
    return settings
