"""What a CLIP model sees in drawn scenes and photos: a captioner's data without a download."""

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float16, Float32, UInt8
from torch import Tensor

from extraction.encoder import Encoder
from models.clip.weights import weights_sha256
from models.load import ModelChoice, load
from pairs.augment import fit
from pairs.picture_folders import as_picture
from pairs.scenes.scenes import Scene, Scenes
from store.files import atomic_write, encode
from utils.errors import UserError, check_count
from utils.progress_bar import progress_bar

# Of pictures: grids, stored in half precision, and embeddings of length 1.
Features = tuple[Float16[np.ndarray, "b n c"], Float32[np.ndarray, "b e"]]


@dataclass(frozen=True)
class FeatureMaker:
    """Grids of pictures enlarged to `resolution`, embeddings at the model's own; scenes' are kept in `cache_path`."""

    model_name: str
    resolution: int
    device: str
    batch_size: int = 64
    cache_path: Path | None = None

    def __post_init__(self) -> None:
        check_count("resolution", self.resolution)
        check_count("batch_size", self.batch_size)

    @cached_property
    def _encoders(self) -> tuple[Encoder, Encoder]:
        """The model twice: at `resolution`, at its own."""
        own = ModelChoice(model_name=self.model_name, device=self.device, precision="fp32")
        loaded = [load(choice) for choice in (replace(own, resolution=self.resolution), own)]
        grids, embeddings = (Encoder(each.model, device=each.device, precision=each.precision) for each in loaded)
        return grids, embeddings

    def of_scenes(self, scenes: Scenes, drawn: Sequence[Scene]) -> Features:
        """`drawn` are those of `scenes`."""
        pictures = [as_picture(scene.image) for scene in drawn]
        if self.cache_path is None:
            return self.of_pictures(pictures)
        facts = asdict(scenes) | {"resolution_px": self.resolution, "weights_sha256": weights_sha256(self.model_name)}
        file = self.cache_path / f"scenes-{hashlib.sha256(encode(facts)).hexdigest()[:16]}.npz"
        if file.is_file():
            return _read(file)
        grids, embeddings = self.of_pictures(pictures)
        with atomic_write(file) as out:
            np.savez(out, grids=grids, embeddings=embeddings)
        return grids, embeddings

    def of_pictures(self, pictures: Sequence[UInt8[Tensor, "3 m m"]]) -> Features:
        """Of pictures of one size."""
        encode_grids, encode_whole = self._encoders
        own_resolution = encode_whole.model.visual.input_resolution
        grids, embeddings = [], []
        starts = range(0, len(pictures), self.batch_size)
        for start in progress_bar(starts, "encoding pictures", unit=" batches", passing=True):
            batch = torch.stack(list(pictures[start : start + self.batch_size]))
            grid = encode_grids.features(fit(batch, self.resolution, "squash"), wanted=("grid",))["grid"]
            grids.append(grid.astype(np.float16))
            whole = torch.from_numpy(encode_whole.images(fit(batch, own_resolution, "squash")))
            embeddings.append(F.normalize(whole, dim=1).numpy())
        return np.concatenate(grids), np.concatenate(embeddings)


def _read(file: Path) -> Features:
    try:
        with np.load(file, allow_pickle=False) as content:
            return content["grids"], content["embeddings"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file}: the kept features cannot be read ({error}): delete the file") from error
