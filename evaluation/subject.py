"""The model under test, as evaluations see it: pictures and texts in, features out."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from extraction.device import usable_device
from extraction.encoder import Encoder
from extraction.precision import Precision
from extraction.preprocess import Preprocess
from models.clip.extract_clip import folder_name
from models.clip.layouts import weights_file
from models.clip.weights import find_weights, load_model
from pairs.picture_folders import OpenImage
from store.provenance import file_sha256
from utils.errors import UserError, check_count

_READERS = 2


@dataclass(frozen=True)
class Subject:
    """Features are float32 (n, e), not normalised. `facts` say which model this is: name, weights, precision."""

    encoder: Encoder
    preprocess: Preprocess
    batch_size: int
    facts: dict[str, Any]

    @classmethod
    def load(
        cls,
        *,
        model_name: str,
        device: str = "cuda:0",
        precision: Precision = "auto",
        batch_size: int = 64,
        activation: str | None = None,
        download_root: str | None = None,
        offline: bool = False,
    ) -> "Subject":
        """The arguments are those of `extract`. Pictures go the exact way: results are compared across papers."""
        check_count("batch_size", batch_size)
        weights = find_weights(str(model_name), download_root=download_root, offline=offline)
        model = load_model(weights, activation=activation)
        preprocess = Preprocess.of(model.visual)
        encoder = Encoder(model, device=usable_device(device), precision=precision)
        facts = {
            "model_name": str(model_name),
            "weights_sha256": file_sha256(weights_file(weights)),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "activation": activation or "as the checkpoint says",
            "precision": encoder.precision,
            "device": str(encoder.device),
            "resolution_px": preprocess.resolution,
            "resize": preprocess.resize,
        }
        return cls(encoder, preprocess, batch_size, facts)

    @property
    def folder(self) -> str:
        """`ViT-B_32`: where results about this model are written, below the output path."""
        return folder_name(self.facts["model_name"])

    def images(self, images: Sequence[OpenImage], *, title: str = "images") -> Float[np.ndarray, "n e"]:
        """Each is opened when its turn comes, two batches at a time in memory."""
        features = []
        with tqdm(total=len(images), desc=title, unit=" images", leave=False, delay=2) as bar:
            for batch in self._batches(images):
                features.append(self.encoder.images(batch))
                bar.update(len(batch))
        return _checked(np.concatenate(features))

    def texts(self, texts: Sequence[str]) -> Float[np.ndarray, "n e"]:
        """Texts that are too long are cut; equal texts are encoded once."""
        different = list(dict.fromkeys(texts))
        row = {text: i for i, text in enumerate(different)}
        features = _checked(self.encoder.texts(different, truncate=True))
        return features[[row[text] for text in texts]]

    def _batches(self, images: Sequence[OpenImage]) -> Iterator[UInt8[Tensor, "b 3 n n"]]:
        """The next batch is read and preprocessed in threads while the caller encodes this one."""
        with ThreadPoolExecutor(_READERS, thread_name_prefix="read") as pool:
            waiting = iter(images)
            ahead: list[Future[Tensor]] = []
            while True:
                ahead += [pool.submit(self._pixels, each) for each in islice(waiting, 2 * self.batch_size - len(ahead))]
                if not ahead:
                    return
                batch, ahead = ahead[: self.batch_size], ahead[self.batch_size :]
                yield torch.stack([pixels.result() for pixels in batch])

    def _pixels(self, image: OpenImage) -> UInt8[Tensor, "3 n n"]:
        return self.preprocess.pixels(image())


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
