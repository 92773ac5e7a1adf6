"""What a model makes of images and texts, as arrays with names: shared by all kinds of input."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from extraction.batching import Encoded
from extraction.encoder import Encoder
from extraction.zero_shot import ZeroShot


@dataclass(frozen=True)
class Output:
    """What comes out, the same for every kind of input. `folder` is "<feature_type>/<model>"."""

    encoder: Encoder
    folder: str
    settings: dict[str, Any]
    weights: str
    wanted: tuple[str, ...] = ("global",)  # "global", "grid"
    grid_pool: int = 1
    grid_dtype: str = "float32"
    normalize: bool = False
    zero_shot: ZeroShot | None = None

    @property
    def feature_type(self) -> str:
        return self.folder.partition("/")[0]

    def encode_images(self, contents: Sequence[Tensor]) -> dict[str, np.ndarray]:
        features = self.encoder.features(torch.stack(list(contents)), wanted=self.wanted, grid_pool=self.grid_pool)
        return self._named(features)

    def encode_texts(self, contents: Sequence[Tensor]) -> dict[str, np.ndarray]:
        return self._named({"global": self.encoder.tokens(torch.stack(list(contents)))})

    def arrays(self, encoded: Encoded) -> dict[str, np.ndarray]:
        """Features as float32, grids as `grid_dtype`; global ones of length 1 where that is asked for."""
        dtypes = {"grid": self.grid_dtype}
        arrays = {
            name: values.astype(dtypes.get(name, "float32"), copy=False) for name, values in encoded.features.items()
        }
        if self.normalize and self.feature_type in arrays:
            values = arrays[self.feature_type]
            arrays[self.feature_type] = values / np.linalg.norm(values, axis=1, keepdims=True)
        return arrays

    def provenance(self, encoded: Encoded) -> dict[str, Any]:
        return {
            **encoded.end.facts,
            "rows": encoded.rows,
            "weights": self.weights,
            "device": str(self.encoder.device),
        }

    def predictions(self, encoded: Encoded) -> list[dict[str, Any]]:
        """The best texts for every row, where they are asked for."""
        if self.zero_shot is None:
            return []
        best = self.zero_shot.predict(encoded.features[self.feature_type].astype(np.float32, copy=False))
        return [{"timestamp_ms": seconds * 1000} | row for seconds, row in zip(encoded.seconds, best, strict=True)]

    def _named(self, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {self.feature_type if name == "global" else name: values for name, values in features.items()}
