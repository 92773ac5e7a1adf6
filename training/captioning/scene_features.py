"""Drawn scenes and what a CLIP model sees in them: a captioner's data without a download."""

import hashlib
import io
import random
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float16, Float32, UInt8
from torch import Tensor

from extraction.device import usable_device
from extraction.preprocess import normalize
from models.clip.model import CLIP
from models.clip.vision import ModifiedResNet
from models.clip.weights import load_model
from pairs.augment import fit
from pairs.picture_folders import as_picture
from pairs.scenes.facts import Facts, Split, draw_facts, in_split
from pairs.scenes.scenes import Scene, draw_scene
from store.atomic import atomic_write
from store.plain_json import encode as encode_json
from store.provenance import file_sha256
from utils.errors import UserError, check_count
from utils.progress_bar import progress_bar

_ATTEMPTS = 100_000


@dataclass(frozen=True)
class SceneSet:
    """Scenes with up to `max_groups` groups of shapes; `unique` lets no two show the same facts."""

    num: int
    seed: int
    split: Split
    max_groups: int
    size_px: int
    unique: bool = False

    def __post_init__(self) -> None:
        check_count("seed", self.seed, least=0)
        for key in ("max_groups", "size_px"):
            check_count(key, getattr(self, key))

    def draw(self) -> list[Scene]:
        """UserError where there are not so many different ones."""
        seen: set[Facts] = set()
        scenes = []
        for index in progress_bar(range(self.num), f"scenes to {self.split} on: drawing", passing=True):
            scene = draw_scene(random.Random(self._key(index, seen)), resolution=self.size_px)
            if self.unique:
                seen.add(scene.facts)
            scenes.append(scene)
        return scenes

    def _key(self, index: int, seen: set[Facts]) -> str:
        for attempt in range(_ATTEMPTS):
            key = f"{self.seed}/{index}/{attempt}"
            facts = draw_facts(random.Random(key))
            if len(facts) <= self.max_groups and in_split(facts, self.split) and facts not in seen:
                return key
        raise UserError(
            f"{self.num} different scenes of up to {self.max_groups} group(s): only {index} were found; "
            "ask for fewer (caption_data.validation_count) or raise caption_data.max_groups"
        )


@dataclass(frozen=True)
class SceneFeatures:
    """Grids are stored in half precision; embeddings have length 1."""

    grids: Float16[np.ndarray, "b n c"]
    embeddings: Float32[np.ndarray, "b e"]


def scene_features(
    scenes: Sequence[Scene],
    described: SceneSet,
    *,
    weights: Path,
    resolution: int,
    device: str,
    batch_size: int = 64,
    cache_path: Path | None = None,
) -> SceneFeatures:
    """Grids of the scenes enlarged to `resolution`, embeddings at the model's own; kept in folder `cache_path`."""
    if cache_path is None:
        return encode(scenes, load_model(weights), resolution, usable_device(device), batch_size)
    facts = asdict(described) | {"resolution_px": resolution, "weights_sha256": file_sha256(weights)}
    file = cache_path / f"scenes-{hashlib.sha256(encode_json(facts)).hexdigest()[:16]}.npz"
    if file.is_file():
        return _read(file)
    features = encode(scenes, load_model(weights), resolution, usable_device(device), batch_size)
    _write(file, features)
    return features


def encode(
    scenes: Sequence[Scene], model: CLIP, resolution: int, device: torch.device, batch_size: int
) -> SceneFeatures:
    return encode_pictures([as_picture(scene.image) for scene in scenes], model, resolution, device, batch_size)


@torch.inference_mode()
def encode_pictures(
    all_pictures: Sequence[UInt8[Tensor, "3 m m"]], model: CLIP, resolution: int, device: torch.device, batch_size: int
) -> SceneFeatures:
    """Pictures of one size, enlarged to `resolution` for the grids, to the model's own for the embeddings."""
    check_count("resolution", resolution)
    check_count("batch_size", batch_size)
    model = model.to(device).eval()
    own_resolution: int = model.visual.input_resolution  # pyright: ignore[reportAssignmentType]
    grids, embeddings = [], []
    starts = range(0, len(all_pictures), batch_size)
    for start in progress_bar(starts, "encoding pictures", unit=" batches", passing=True):
        pictures = torch.stack(list(all_pictures[start : start + batch_size]))
        grids.append(_grid(model, _pixels(pictures, model, resolution, device)).half().cpu().numpy())
        embedded = model.encode_image(_pixels(pictures, model, own_resolution, device)).float()
        embeddings.append(F.normalize(embedded, dim=1).cpu().numpy())
    return SceneFeatures(np.concatenate(grids), np.concatenate(embeddings))


def _pixels(pictures: UInt8[Tensor, "b 3 m m"], model: CLIP, resolution: int, device: torch.device) -> Tensor:
    pixels = fit(pictures, resolution, "squash").to(device)
    return normalize(pixels, model.visual.mean, model.visual.std)  # pyright: ignore[reportArgumentType]


def _grid(model: CLIP, pixels: Float32[Tensor, "b 3 n n"]) -> Float32[Tensor, "b t c"]:
    """The map before the attention pool; convolutions take any size, positions of a transformer's patches do not."""
    if isinstance(model.visual, ModifiedResNet):
        return model.visual.trunk(pixels).flatten(2).transpose(1, 2)
    raise UserError(f"caption_data=scenes takes grids of a ResNet; {type(model.visual).__name__} gives none here")


def _write(file: Path, features: SceneFeatures) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, grids=features.grids, embeddings=features.embeddings)
    with atomic_write(file) as out:
        out.write(buffer.getbuffer())


def _read(file: Path) -> SceneFeatures:
    try:
        with np.load(file, allow_pickle=False) as content:
            return SceneFeatures(content["grids"], content["embeddings"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file}: the kept features cannot be read ({error}): delete the file") from error
