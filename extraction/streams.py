"""Videos, images and texts on their way through a model: read -> encode -> finish (`extraction.pipeline.Stream`)."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from extraction.batching import Encode, Encoded
from extraction.encoder import Encoder
from extraction.options import FeatureOptions, FrameOptions
from extraction.rows import ImageRows, Preparation, TextRows, VideoRows
from extraction.towers import LoadedModel
from extraction.zero_shot import TextPredictor
from media.sampling import EveryFrame
from utils.types import Features

NO_DAMAGE = "none"


class Output(Protocol):
    """What is made of prepared contents; `ModelFeatures`, for one."""

    @property
    def folder(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def encode(self) -> Encode: ...

    def finish(self, encoded: Encoded, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Features: ...


@dataclass(frozen=True)
class ModelFeatures:
    """What a model makes of prepared pictures: arrays by name, that of the global ones is `feature_type`."""

    model: LoadedModel
    encoder: Encoder
    options: FeatureOptions
    folder: str  # of the results: "clip/ViT-B_32"
    settings: Mapping[str, Any]
    predictor: TextPredictor | None = None

    @property
    def encode(self) -> Encode:
        """Prepared pictures -> "global" and "grid", as far as they are wanted."""
        return partial(self.encoder.features, wanted=self.options.wanted, grid_pool=self.options.grid_pool)

    def finish(self, encoded: Encoded, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Features:
        """With `arrays` behind the features: float32, grids as `grid_dtype`, global ones of length 1 if asked for."""
        whole, dtypes, found = self.model.feature_type, {"grid": self.options.grid_dtype}, {}
        for name, values in encoded.features.items():
            found[whole if name == "global" else name] = values.astype(dtypes.get(name, "float32"), copy=False)
        predictions = []
        if self.predictor:
            best = self.predictor.predict(found[whole])
            predictions = [{"timestamp_ms": at * 1000} | row for at, row in zip(encoded.seconds, best, strict=True)]
        if self.options.normalize and whole in found:
            found[whole] = found[whole] / np.linalg.norm(found[whole], axis=1, keepdims=True)
        provenance = {
            **encoded.end.facts,
            "rows": encoded.rows,
            "weights": self.model.weights,
            "device": str(self.encoder.device),
        }
        end, found = encoded.end, found | dict(arrays)
        of_reading = (end.source, end.damage, end.warnings)
        return Features(encoded.item, self.folder, found, dict(settings), provenance, predictions, *of_reading)


class Videos:
    """Frames at the sampler's times."""

    unit = "frames"
    readers = 2  # each decoder has threads of its own
    in_processes = True
    ahead = 4

    def __init__(self, output: Output, preprocess: Preparation, frames: FrameOptions) -> None:
        sampler = frames.sampler()
        self.rows = VideoRows(
            preprocess,
            sampler,
            on_damage="keep" if frames.on_error == "partial" else "raise",
            tmp_folder=Path(frames.tmp_path) / output.folder if frames.keep_tmp_files else None,
        )
        self._output = output
        self.folder, self.encode = output.folder, output.encode
        self.settings = {**output.settings, **preprocess.settings()}
        self.settings["sampling"] = {"rule": type(sampler).__name__, **vars(sampler)}
        if self.rows.on_damage == "raise":
            self.settings["damage"] = NO_DAMAGE  # what a partial run kept of a damaged file does not count as done

    def finish(self, encoded: Encoded) -> Features:
        arrays = {
            "fps": np.array(encoded.end.fps, dtype=np.float64),
            "timestamps_ms": np.array(encoded.seconds, dtype=np.float64) * 1000,
        }
        if not isinstance(self.rows.sampler, EveryFrame):
            arrays["source_timestamps_ms"] = np.array(encoded.source_seconds, dtype=np.float64) * 1000
        damage = "kept what decodes" if encoded.end.damage else NO_DAMAGE
        return self._output.finish(encoded, arrays, self.settings | {"damage": damage})


class Images:
    """Still images give one row, animated ones a row for every frame, with their times."""

    unit = "images"
    readers = max(2, min(16, os.cpu_count() or 2))
    in_processes = True

    def __init__(
        self, output: Output, preprocess: Preparation, *, exif_orientation: bool = False, ahead: int = 64
    ) -> None:
        self.rows = ImageRows(preprocess, exif_orientation)
        self._output = output
        self.ahead, self.folder, self.encode = ahead, output.folder, output.encode
        self.settings = {**output.settings, **preprocess.settings(), "exif_orientation": exif_orientation}

    def finish(self, encoded: Encoded) -> Features:
        times = {"timestamps_ms": np.array(encoded.seconds, dtype=np.float64) * 1000} if encoded.rows > 1 else {}
        return self._output.finish(encoded, times, self.settings)


class Texts:
    """One row for every text. A text that is too long fails its item, unless it is to be cut."""

    unit = "texts"
    readers = 1  # the tokenizer is Python: more threads would not make it faster
    in_processes = False

    def __init__(self, output: Output, encoder: Encoder, *, truncate: bool = False, ahead: int = 64) -> None:
        self.rows = TextRows(encoder.model.tokenize, truncate)
        self._output, self._encoder = output, encoder
        self.ahead, self.folder = ahead, output.folder
        self.settings = {**output.settings, "text_overflow": "truncate" if truncate else "error"}

    def encode(self, contents: Sequence[Tensor]) -> dict[str, np.ndarray]:
        return {"global": self._encoder.tokens(torch.stack(list(contents)))}

    def finish(self, encoded: Encoded) -> Features:
        return self._output.finish(encoded, {}, self.settings)
