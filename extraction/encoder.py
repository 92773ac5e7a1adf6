"""Pixels and strings -> features: the one place that owns device and precision."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from extraction.precision import Precision, resolve, to_precision
from extraction.preprocess import normalize
from extraction.preset import grid_shape
from utils.errors import check_option

FEATURES = ("global", "grid")
Convert = Callable[[Any, Precision, torch.device], Any]


class Encoder:
    """Wraps a model in evaluation mode. Features are float32 on the CPU, not normalised, whatever the precision.

    `convert` brings the model to device and precision; other families than OpenAI's may have their own.
    """

    def __init__(
        self, model: Any, *, device: torch.device, precision: Precision = "auto", convert: Convert = to_precision
    ) -> None:
        self.device = device
        self.precision = resolve(precision, device)
        self.model: Any = convert(model.eval(), precision, device)

    def images(self, pixels: UInt8[Tensor, "b 3 n n"]) -> Float[np.ndarray, "b e"]:
        """The global features alone."""
        return self.features(pixels)["global"]

    @torch.inference_mode()
    def features(
        self, pixels: UInt8[Tensor, "b 3 n n"], *, wanted: Sequence[str] = ("global",), grid_pool: int = 1
    ) -> dict[str, Float[np.ndarray, "b ..."]]:
        """Preprocessed pixels, 0..255, -> those of "global" (b, e) and "grid" (b, n, c) that are `wanted`, in one pass.

        The grid is row-major, averaged over windows of `grid_pool` x `grid_pool` patches; what does not fill a window
        is left out (7 x 7 pooled by 2 is 3 x 3). A batch that does not fit the device's memory is encoded in halves.
        """
        for name in wanted:
            check_option("features", name, FEATURES)
        try:
            return {name: values.cpu().numpy() for name, values in self._features(pixels, wanted, grid_pool).items()}
        except torch.OutOfMemoryError:
            if len(pixels) == 1:
                raise
        halves = [
            self.features(half, wanted=wanted, grid_pool=grid_pool) for half in pixels.split((len(pixels) + 1) // 2)
        ]
        return {name: np.concatenate([half[name] for half in halves]) for name in wanted}

    def _features(
        self, pixels: UInt8[Tensor, "b 3 n n"], wanted: Sequence[str], grid_pool: int
    ) -> dict[str, Float[Tensor, "b ..."]]:
        visual = self.model.visual
        batch = normalize(pixels.to(self.device, non_blocking=True), visual.mean, visual.std)  # pyright: ignore[reportArgumentType]
        if "grid" not in wanted:  # not every tower has a trunk
            return {"global": self.model.encode_image(batch).float()}
        shape = grid_shape(visual, grid_pool)
        trunk = visual.trunk(batch.to(visual.dtype))  # pyright: ignore
        pooled = F.avg_pool2d(visual.grid(trunk).float(), grid_pool)  # pyright: ignore
        features = {"grid": pooled.flatten(2).transpose(1, 2).reshape(len(batch), *shape)}
        if "global" in wanted:
            features["global"] = visual.head(trunk).float()  # pyright: ignore
        return features

    def texts(self, texts: list[str], *, batch_size: int = 256, truncate: bool = False) -> Float[np.ndarray, "n e"]:
        tokens = self.model.tokenize(texts, truncate=truncate)
        order = tokens.argmax(dim=1).argsort(stable=True)  # by length: a batch is computed as far as its longest text
        features = np.concatenate([self.tokens(part) for part in tokens[order].split(batch_size)])
        return features[order.argsort().numpy()]

    @torch.inference_mode()
    def tokens(self, tokens: Int[Tensor, "b t"]) -> Float[np.ndarray, "b e"]:
        """Token ids as the model's `tokenize` gives them."""
        return self.model.encode_text(tokens.to(self.device)).float().cpu().numpy()

    @property
    def logit_scale(self) -> float:
        """The factor on the cosines: exp of the learned parameter, 100 in OpenAI's models."""
        return float(self.model.logit_scale.detach().double().exp())
