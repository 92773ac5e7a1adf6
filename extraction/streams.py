"""Videos, images and texts on their way through a model: read -> encode -> finish (`extraction.pipeline.Stream`)."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from extraction.batching import Encode, Encoded
from extraction.encoder import Encoder
from extraction.options import FeatureOptions, FrameOptions
from extraction.preprocess import Preparation
from extraction.rows import ImageRows, TextRows, VideoRows
from extraction.towers import LoadedModel
from extraction.zero_shot import TextPredictor
from media.limits import DEFAULT_LIMITS, Limits
from media.sampling import EveryFrame
from utils.errors import MediaError
from utils.types import Features

NO_DAMAGE = "none"
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
_UNSCALED = "unscaled"  # global features as predictions want them, where they are saved otherwise


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

    def encode(self, contents: Sequence[Tensor]) -> dict[str, np.ndarray]:
        """Prepared pictures -> "global" and "grid", as far as they are wanted."""
        options = self.options
        return self.as_saved(self.encoder.features(contents, wanted=options.wanted, grid_pool=options.grid_pool))

    def as_saved(self, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Grids as `grid_dtype`, global features of length 1 if asked for: batch by batch, as videos may be long."""
        if "grid" in found:
            found["grid"] = found["grid"].astype(self.options.grid_dtype, copy=False)
        if self.options.normalize and "global" in found:
            if self.predictor:
                found[_UNSCALED] = found["global"]
            found["global"] = found["global"] / np.linalg.norm(found["global"], axis=1, keepdims=True)
        return found

    def finish(self, encoded: Encoded, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Features:
        """With `arrays` behind the features."""
        names = {"global": self.model.feature_type}
        found = {names.get(name, name): values for name, values in without_filling(encoded).items()}
        unscaled = found.pop(_UNSCALED, found.get(self.model.feature_type))
        predictions = []
        if self.predictor and unscaled is not None:
            best = self.predictor.predict(unscaled)
            predictions = [{"timestamp_ms": at * 1000} | row for at, row in zip(encoded.seconds, best, strict=True)]
        provenance = {
            **encoded.end.facts,
            "rows": encoded.rows,
            "weights": self.model.weights,
            "licence": self.model.licence or "not stated",
            "device": str(self.encoder.device),
        }
        end, found = encoded.end, found | dict(arrays)
        of_reading = (end.source, end.damage, end.warnings)
        return Features(encoded.item, self.folder, found, dict(settings), provenance, predictions, *of_reading)


def without_filling(encoded: Encoded) -> dict[str, np.ndarray]:
    """Its arrays; grids that were filled up (`Encoder.features`) only as far as the largest of this item.

    MediaError where a grid is too narrow to be pooled.
    """
    found = dict(encoded.features)
    if "grid_shape" in found:
        cells = found["grid_shape"].prod(axis=1)
        if not cells.all():
            i, j = found["grid_shape"][cells.argmin()].tolist()
            raise MediaError(f"{encoded.item.path}: too narrow for grid_pool: {i} x {j} windows; give resize=squash")
        found["grid"] = found["grid"][:, : cells.max()]
    return found


class Videos:
    """Frames at the sampler's times."""

    unit = "frames"
    readers = max(2, min(8, _CORES // 2))  # each decoder has threads of its own
    in_processes = True
    ahead = 2

    def __init__(self, output: Output, preprocess: Preparation, frames: FrameOptions) -> None:
        self._sampler = sampler = frames.sampler()
        self.rows = VideoRows(
            preprocess,
            sampler,
            on_damage="keep" if frames.on_error == "partial" else "raise",
            tmp_folder=Path(frames.tmp_path) / output.folder if frames.keep_tmp_files else None,
            limits=frames.limits,
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
        if not isinstance(self._sampler, EveryFrame):
            arrays["source_timestamps_ms"] = np.array(encoded.source_seconds, dtype=np.float64) * 1000
        damage = "kept what decodes" if encoded.end.damage else NO_DAMAGE
        return self._output.finish(encoded, arrays, self.settings | {"damage": damage})


class Images:
    """Still images give one row, animated ones a row for every frame, with their times."""

    unit = "images"
    readers = max(2, min(16, _CORES))
    in_processes = True

    def __init__(
        self,
        output: Output,
        preprocess: Preparation,
        *,
        exif_orientation: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        ahead: int = 64,
    ) -> None:
        self.rows = ImageRows(preprocess, exif_orientation, limits)
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

    def __init__(self, output: ModelFeatures, encoder: Encoder, *, truncate: bool = False, ahead: int = 64) -> None:
        self.rows = TextRows(encoder.model.tokenize, truncate)
        self._output, self._encoder = output, encoder
        self.ahead, self.folder = ahead, output.folder
        of_texts = {key: value for key, value in output.settings.items() if key != "grid"}  # texts have none
        self.settings = {**of_texts, "text_overflow": "truncate" if truncate else "error"}

    def encode(self, contents: Sequence[Tensor]) -> dict[str, np.ndarray]:
        return self._output.as_saved({"global": self._encoder.tokens(torch.stack(list(contents)))})

    def finish(self, encoded: Encoded) -> Features:
        return self._output.finish(encoded, {}, self.settings)
