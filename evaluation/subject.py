"""The model under test, as evaluations see it: pictures and texts in, features out."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from extraction.encoder import Encoder
from extraction.preprocess import Preparation, preparation_for
from models.load import ModelChoice, load
from pairs.picture_folders import OpenImage
from utils.errors import UserError, check_count
from utils.progress_bar import progress_bar

_READERS = 2
_OF_PICTURES = ("resolution_px", "max_patches", "resize")


@dataclass(frozen=True)
class Subject:
    """Features are float32 (n, e), not normalised. `facts` say which model this is: name, weights, precision.

    Results about it are written to `folder` below the output path: `ViT-B_32`.
    """

    encoder: Encoder
    preprocess: Preparation
    batch_size: int
    facts: dict[str, Any]
    folder: str = ""

    @classmethod
    def load(cls, model: ModelChoice, *, batch_size: int = 64) -> "Subject":
        """Pictures go the exact way: results are compared across papers."""
        check_count("batch_size", batch_size)
        loaded = load(model)
        preprocess = preparation_for(loaded.model.visual)
        parameters = sum(each.numel() for each in loaded.model.parameters())
        encoder = Encoder(loaded.model, device=loaded.device, precision=loaded.precision)
        facts = {
            **loaded.settings,
            "model_name": str(model.model_name),
            "parameters": parameters,
            "precision": encoder.precision,
            "device": str(encoder.device),
            **{key: value for key, value in preprocess.settings().items() if key in _OF_PICTURES},
            "licence": loaded.licence or "not stated",
        }
        return cls(encoder, preprocess, batch_size, facts, loaded.name)

    def images(self, images: Sequence[OpenImage], *, title: str = "images") -> Float[np.ndarray, "n e"]:
        """Each is opened when its turn comes, two batches at a time in memory: threads read the next one meanwhile."""
        features, size = [], self.batch_size
        with (
            progress_bar(title=title, total=len(images), unit=" images", passing=True) as bar,
            ThreadPoolExecutor(_READERS, thread_name_prefix="read") as pool,
        ):

            def read(start: int) -> list[Future[Tensor]]:
                return [pool.submit(self._pixels, each) for each in images[start : start + size]]

            ahead = read(0)
            for start in range(size, len(images) + size, size):
                batch, ahead = ahead, read(start)
                features.append(self.encoder.images([pixels.result() for pixels in batch]))
                bar.update(len(batch))
        return _checked(np.concatenate(features))

    def texts(self, texts: Sequence[str]) -> Float[np.ndarray, "n e"]:
        """Texts that are too long are cut; equal texts are encoded once."""
        different = list(dict.fromkeys(texts))
        row = {text: i for i, text in enumerate(different)}
        features = _checked(self.encoder.texts(different, truncate=True))
        return features[[row[text] for text in texts]]

    def _pixels(self, image: OpenImage) -> UInt8[Tensor, "3 h w"]:
        return self.preprocess.image(image())


def unit_rows(features: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n e"]:
    """Every row scaled to length 1; rows of zeros stay zero, so that they are similar to nothing."""
    norms = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.maximum(norms, np.finfo(features.dtype).tiny)


def _checked(features: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n e"]:
    """Scores of features that are no numbers would look like scores (all comparisons with nan are false)."""
    if not np.isfinite(features).all():
        raise UserError(
            "the model gives features that are not finite: a broken checkpoint, or precision=fp32 is needed"
        )
    return features
