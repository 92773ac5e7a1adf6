"""What a CLIP model sees in drawn scenes and photos: a captioner's data without a download."""

import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float16, Float32, UInt8
from torch import Tensor
from tqdm import tqdm

from extraction.device import usable_device
from extraction.preprocess import normalize
from models.clip.model import CLIP
from models.clip.vision import ModifiedResNet
from models.clip.weights import load_model
from pairs.augment import fit
from pairs.picture_folders import as_picture
from pairs.scenes.scenes import Scene, Scenes
from store.atomic import atomic_write
from store.plain_json import encode
from store.provenance import file_sha256
from utils.errors import UserError, check_count


@dataclass(frozen=True)
class SceneFeatures:
    """Grids are stored in half precision; embeddings have length 1."""

    grids: Float16[np.ndarray, "b n c"]
    embeddings: Float32[np.ndarray, "b e"]


@dataclass(frozen=True)
class FeatureMaker:
    """Grids of pictures enlarged to `resolution`, embeddings at the model's own; scenes' are kept in `cache_path`."""

    weights: Path
    resolution: int
    device: str
    batch_size: int = 64
    cache_path: Path | None = None

    def __post_init__(self) -> None:
        check_count("resolution", self.resolution)
        check_count("batch_size", self.batch_size)

    @cached_property
    def model(self) -> CLIP:
        return load_model(self.weights).to(usable_device(self.device)).eval()

    def of_scenes(self, scenes: Scenes, drawn: Sequence[Scene]) -> SceneFeatures:
        """`drawn` are those of `scenes`."""
        pictures = [as_picture(scene.image) for scene in drawn]
        if self.cache_path is None:
            return self.of_pictures(pictures)
        file = self.cache_path / f"scenes-{hashlib.sha256(encode(self._facts(scenes))).hexdigest()[:16]}.npz"
        if file.is_file():
            return _read(file)
        features = self.of_pictures(pictures)
        buffer = io.BytesIO()
        np.savez(buffer, grids=features.grids, embeddings=features.embeddings)
        with atomic_write(file) as out:
            out.write(buffer.getbuffer())
        return features

    def _facts(self, scenes: Scenes) -> dict[str, object]:
        keys = ("num", "seed", "split", "max_groups", "size_px", "unique")
        facts = {key: getattr(scenes, key) for key in keys}
        return facts | {"resolution_px": self.resolution, "weights_sha256": file_sha256(self.weights)}

    @torch.inference_mode()
    def of_pictures(self, pictures: Sequence[UInt8[Tensor, "3 m m"]]) -> SceneFeatures:
        """Of pictures of one size."""
        own_resolution: int = self.model.visual.input_resolution  # pyright: ignore[reportAssignmentType]
        grids, embeddings = [], []
        starts = range(0, len(pictures), self.batch_size)
        for start in tqdm(starts, desc="encoding pictures", unit=" batches", leave=False, delay=2):
            batch = torch.stack(list(pictures[start : start + self.batch_size]))
            grids.append(self._grid(self._pixels(batch, self.resolution)).half().cpu().numpy())
            embedded = self.model.encode_image(self._pixels(batch, own_resolution)).float()
            embeddings.append(F.normalize(embedded, dim=1).cpu().numpy())
        return SceneFeatures(np.concatenate(grids), np.concatenate(embeddings))

    def _pixels(self, pictures: UInt8[Tensor, "b 3 m m"], resolution: int) -> Tensor:
        pixels = fit(pictures, resolution, "squash").to(self.model.logit_scale.device)
        return normalize(pixels, self.model.visual.mean, self.model.visual.std)  # pyright: ignore[reportArgumentType]

    def _grid(self, pixels: Float32[Tensor, "b 3 n n"]) -> Float32[Tensor, "b t c"]:
        """The map before the attention pool; convolutions take any size, positions of patches do not."""
        visual = self.model.visual
        if isinstance(visual, ModifiedResNet):
            return visual.trunk(pixels).flatten(2).transpose(1, 2)
        raise UserError(f"caption_data=scenes takes grids of a ResNet; {type(visual).__name__} gives none here")


def _read(file: Path) -> SceneFeatures:
    try:
        with np.load(file, allow_pickle=False) as content:
            return SceneFeatures(content["grids"], content["embeddings"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file}: the kept features cannot be read ({error}): delete the file") from error
