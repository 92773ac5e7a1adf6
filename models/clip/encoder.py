"""Pixels and strings -> features: the one place that owns device and precision."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from models.clip.model import CLIP
from models.clip.precision import Precision, resolve, to_precision
from models.clip.preprocess import normalize


class Encoder:
    """Wraps a model in evaluation mode. Features are float32 on the CPU, not normalised, whatever the precision."""

    def __init__(self, model: CLIP, *, device: torch.device, precision: Precision = "auto") -> None:
        self.device = device
        self.precision = resolve(precision, device)
        self.model = to_precision(model.eval(), precision, device)

    @torch.inference_mode()
    def images(self, pixels: UInt8[Tensor, "b 3 n n"]) -> Float[np.ndarray, "b e"]:
        """Preprocessed pixels, 0..255; they are normalised on the device.

        A batch that does not fit the device's memory is encoded in halves.
        """
        visual = self.model.visual
        try:
            batch = normalize(pixels.to(self.device, non_blocking=True), visual.mean, visual.std)  # pyright: ignore[reportArgumentType]
            return self.model.encode_image(batch).float().cpu().numpy()
        except torch.OutOfMemoryError:
            if len(pixels) == 1:
                raise
        halves = pixels.split((len(pixels) + 1) // 2)
        return np.concatenate([self.images(half) for half in halves])

    @torch.inference_mode()
    def texts(self, texts: list[str], *, batch_size: int = 256, truncate: bool = False) -> Float[np.ndarray, "n e"]:
        tokens = self.model.tokenize(texts, truncate=truncate)
        features = [self.model.encode_text(part.to(self.device)).float().cpu() for part in tokens.split(batch_size)]
        return torch.cat(features).numpy()

    @property
    def logit_scale(self) -> float:
        """The factor on the cosines: exp of the learned parameter, 100 in OpenAI's models."""
        return float(self.model.logit_scale.detach().double().exp())
