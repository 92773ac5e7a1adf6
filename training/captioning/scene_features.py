"""Drawn scenes and what a CLIP model sees in them: a captioner's data without a download."""

import hashlib
import io
import random
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
from pairs.scenes.facts import Facts, Split, draw_facts, in_split
from pairs.scenes.scenes import Scene, draw_scene
from store.atomic import atomic_write
from store.plain_json import encode as encode_json
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


class PictureEncoders:
    """A CLIP model twice, loaded when it is needed: for grids at `resolution`, for embeddings at its own."""

    def __init__(self, model_name: str, *, resolution: int, device: str, batch_size: int = 64) -> None:
        check_count("batch_size", batch_size)
        self.resolution, self.batch_size = resolution, batch_size
        self.weights_sha256 = weights_sha256(model_name)
        self._choice = ModelChoice(model_name=model_name, device=device, precision="fp32")

    @cached_property
    def _grids(self) -> Encoder:
        model = load(replace(self._choice, resolution=self.resolution))
        return Encoder(model.model, device=model.device, precision=model.precision)

    @cached_property
    def _embeddings(self) -> Encoder:
        model = load(self._choice)
        return Encoder(model.model, device=model.device, precision=model.precision)

    def encode(self, pictures: Sequence[UInt8[Tensor, "3 m m"]]) -> SceneFeatures:
        """Pictures of one size."""
        grids, embeddings, own_resolution = [], [], self._embeddings.model.visual.input_resolution
        starts = range(0, len(pictures), self.batch_size)
        for start in progress_bar(starts, "encoding pictures", unit=" batches", passing=True):
            batch = torch.stack(list(pictures[start : start + self.batch_size]))
            grid = self._grids.features(fit(batch, self.resolution, "squash"), wanted=("grid",))["grid"]
            grids.append(grid.astype(np.float16))
            embedded = torch.from_numpy(self._embeddings.images(fit(batch, own_resolution, "squash")))
            embeddings.append(F.normalize(embedded, dim=1).numpy())
        return SceneFeatures(np.concatenate(grids), np.concatenate(embeddings))


def scene_features(
    scenes: Sequence[Scene], described: SceneSet, encoders: PictureEncoders, *, cache_path: Path | None = None
) -> SceneFeatures:
    """Of the scenes' pictures; kept in folder `cache_path`."""
    pictures = [as_picture(scene.image) for scene in scenes]
    if cache_path is None:
        return encoders.encode(pictures)
    facts = asdict(described) | {"resolution_px": encoders.resolution, "weights_sha256": encoders.weights_sha256}
    file = cache_path / f"scenes-{hashlib.sha256(encode_json(facts)).hexdigest()[:16]}.npz"
    if file.is_file():
        return _read(file)
    features = encoders.encode(pictures)
    _write(file, features)
    return features


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
