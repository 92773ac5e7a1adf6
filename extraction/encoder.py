"""Pixels and strings -> features: the one place that owns device and precision."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from extraction.memory import Pieces
from extraction.precision import Precision, resolve
from extraction.preprocess import normalize
from extraction.towers import AnyShapeTower, ImageTextModel, ImageTower
from utils.errors import UserError, check_option

FEATURES = ("global", "grid")


class Encoder:
    """Wraps a model, which it changes. Features are float32 on the CPU, not normalised, whatever the precision."""

    def __init__(self, model: ImageTextModel, *, device: torch.device, precision: Precision = "auto") -> None:
        self.device = device
        self.precision = resolve(precision, device)
        try:
            model.to_precision(self.precision, device)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"device={device}: its memory does not hold the model: end what else runs there, or give another "
                "device, a lower precision or a smaller model"
            ) from error
        self.model = model
        self._pieces, self._text_pieces = Pieces(device), Pieces(device)

    def images(self, pixels: UInt8[Tensor, "b 3 n n"] | Sequence[UInt8[Tensor, "3 _ _"]]) -> Float[np.ndarray, "b e"]:
        """The global features alone."""
        return self.features(pixels)["global"]

    @torch.inference_mode()
    def features(
        self,
        pixels: UInt8[Tensor, "b 3 n n"] | Sequence[UInt8[Tensor, "3 _ _"]],
        *,
        wanted: Sequence[str] = ("global",),
        grid_pool: int = 1,
    ) -> dict[str, Float[np.ndarray, "b ..."]]:
        """Preprocessed pixels, 0..255, -> those of "global" (b, e) and "grid" (b, n, c) that are `wanted`, in one pass.

        The grid is row-major, averaged over windows of `grid_pool` x `grid_pool` patches; what does not fill a window
        is left out (7 x 7 pooled by 2 is 3 x 3). What does not fit the device's memory is encoded in `Pieces`.

        With an `AnyShapeTower` all grids are filled up with zeros to the largest there can be, and "grid_shape" (b, 2)
        tells how many rows and columns each has, 0 of them where a window is larger.
        """
        if unknown := [name for name in wanted if name not in FEATURES]:
            check_option("features", unknown[0], FEATURES)
        if "grid" in wanted:
            grid_shape(self.model.visual, grid_pool)
        alike = isinstance(pixels, Tensor) or isinstance(self.model.visual, AnyShapeTower)
        batch = pixels if alike else torch.stack(list(pixels))
        return self._pieces(partial(self._features, wanted=wanted, grid_pool=grid_pool), batch)

    def _features(self, batch: Any, wanted: Sequence[str], grid_pool: int) -> dict[str, np.ndarray]:
        visual = self.model.visual
        if isinstance(visual, AnyShapeTower):
            return self._of_any_shape(visual, batch, wanted, grid_pool)
        images = normalize(batch.to(self.device, non_blocking=True), visual.mean, visual.std)
        if "grid" not in wanted:  # the model's own word: a tower may have no trunk, a model do more (CoCa normalises)
            found = {"global": self.model.encode_image(images)}
        else:
            outputs = visual.trunk(images.to(visual.dtype))
            pooled = F.avg_pool2d(visual.grid(outputs).float(), grid_pool)
            found = {"grid": pooled.flatten(2).transpose(1, 2)}
            if "global" in wanted:
                found["global"] = visual.head(outputs)
        return {name: values.float().cpu().numpy() for name, values in found.items()}

    def _of_any_shape(
        self, tower: AnyShapeTower, batch: Sequence[Tensor], wanted: Sequence[str], grid_pool: int
    ) -> dict[str, np.ndarray]:
        mean, std = self.model.visual.mean, self.model.visual.std
        images = [normalize(picture.unsqueeze(0).to(self.device), mean, std)[0] for picture in batch]
        outputs, found = tower.trunk(images), {}
        if "grid" in wanted:
            maps = [_pooled(each.float(), grid_pool) for each in tower.grid(outputs)]
            rows = np.zeros((len(maps), tower.max_patches // grid_pool**2, maps[0].shape[0]), np.float32)
            for row, each in zip(rows, maps, strict=True):
                row[: each[0].numel()] = each.flatten(1).T.cpu().numpy()
            found |= {"grid": rows, "grid_shape": np.array([each.shape[1:] for each in maps], np.int64)}
        if "global" in wanted:
            found["global"] = tower.head(outputs).float().cpu().numpy()
        return found

    def texts(self, texts: list[str], *, batch_size: int = 256, truncate: bool = False) -> Float[np.ndarray, "n e"]:
        tokens = self.model.tokenize(texts, truncate=truncate)
        # By length, that is up to the padding: towers compute a batch as far as its longest text.
        order = (tokens != tokens[:, -1:]).cumsum(dim=1).argmax(dim=1).argsort(stable=True)
        features = np.concatenate([self.tokens(part) for part in tokens[order].split(batch_size)])
        return features[order.argsort().numpy()]

    @torch.inference_mode()
    def tokens(self, tokens: Int[Tensor, "b t"]) -> Float[np.ndarray, "b e"]:
        """Token ids as the model's `tokenize` gives them."""

        def compute(part: Tensor) -> dict[str, np.ndarray]:
            return {"": self.model.encode_text(part.to(self.device)).float().cpu().numpy()}

        return self._text_pieces(compute, tokens)[""]


def _pooled(grid: Float[Tensor, "c i j"], grid_pool: int) -> Float[Tensor, "c _ _"]:
    """Empty where the grid is smaller than a window."""
    c, i, j = grid.shape
    if grid_pool > min(i, j):
        return grid.new_empty(c, i // grid_pool, j // grid_pool)
    return F.avg_pool2d(grid, grid_pool)


def grid_shape(visual: ImageTower, grid_pool: int = 1) -> tuple[int, int]:
    """(n, c) of an image's grid features, by arithmetic. UserError where the tower has no grid, or one too small."""
    if visual.map_shape is None:
        raise UserError("features=grid: this image tower has no grid; expected features=global")
    c, i, j = visual.map_shape
    if grid_pool > min(i, j):
        raise UserError(f"grid_pool={grid_pool}: the grid is {i} x {j} patches; expected {min(i, j)} at most")
    return (i // grid_pool) * (j // grid_pool), c
