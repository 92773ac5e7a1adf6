"""The extractor behind `--config-name caption`: images and videos -> captions, each with its CLIP-S.

It goes the way of all features (`extraction.pipeline`): read ahead, batches that span files, resume, ledger, sharing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from extraction.batching import Encoded
from extraction.encoder import Encoder
from extraction.memory import Pieces
from extraction.options import FrameOptions, PictureOptions
from extraction.preprocess import Preparation, preparation_for
from extraction.streams import Images, Videos
from extraction.towers import LoadedModel
from models.captioner.checkpoint import LoadedCaptioner, find_captioner, load_captioner
from models.captioner.decoding import decode
from models.captioner.options import Decoding
from models.clip.family import folder_name
from models.clip_s import PREFIX, clip_s, prefixed
from models.load import ModelChoice, load
from store.provenance import file_sha256
from utils.errors import UserError, check_count, check_text
from utils.types import Features, Show

FEATURE_TYPE = "captions"


@dataclass(frozen=True)
class TwoViews:
    """A picture as the captioner's features want it, and as the model that scores the caption does."""

    grid: Preparation
    score: Preparation

    def image(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        return self.grid.image(image), self.score.image(image)

    def frame(self, rgb: np.ndarray) -> tuple[Tensor, Tensor]:
        return self.grid.frame(rgb), self.score.frame(rgb)

    def settings(self) -> dict[str, Any]:
        return self.grid.settings() | {f"score_{key}": value for key, value in self.score.settings().items()}


@dataclass(frozen=True)
class CaptionOutput:
    """Pixels in, captions out: `tokens` (t, max_words) and `clip_s` (t,), with the sentences as predictions."""

    captioner: LoadedCaptioner
    decoding: Decoding
    grids: Encoder
    scores: Encoder
    prefix: str
    folder: str
    settings: Mapping[str, Any]
    weights: str
    pieces: Pieces

    def encode(self, contents: Sequence[tuple[Tensor, Tensor]]) -> dict[str, np.ndarray]:
        return self.pieces(self._encode, contents)

    @torch.inference_mode()
    def _encode(self, contents: Sequence[tuple[Tensor, Tensor]]) -> dict[str, np.ndarray]:
        for_grid, for_score = (list(views) for views in zip(*contents, strict=True))
        grid_pool = self.captioner.features.get("grid_pool", 1)
        grid = self.grids.features(for_grid, wanted=("grid",), grid_pool=grid_pool)["grid"]
        model, vocabulary = self.captioner.model, self.captioner.vocabulary
        decoded = decode(model, torch.from_numpy(grid).to(self.grids.device), self.decoding, vocabulary)
        sentences = vocabulary.sentences(decoded.tokens)
        return {"tokens": decoded.tokens.cpu().numpy(), "clip_s": self._clip_s(for_score, sentences)}

    def finish(self, encoded: Encoded, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Features:
        """With `{"timestamp_ms", "caption", "clip_s"}` for every row."""
        captions = self.captioner.vocabulary.sentences(torch.from_numpy(encoded.features["tokens"]))
        predictions = [
            {"timestamp_ms": seconds * 1000, "caption": caption, "clip_s": round(float(clip_s), 6)}
            for seconds, caption, clip_s in zip(encoded.seconds, captions, encoded.features["clip_s"], strict=True)
        ]
        provenance = {
            **encoded.end.facts,
            "rows": encoded.rows,
            "weights": self.weights,
            "device": str(self.grids.device),
        }
        found = {**encoded.features, **arrays}
        end = encoded.end
        of_reading = (end.source, end.damage, end.warnings)
        return Features(encoded.item, self.folder, found, dict(settings), provenance, predictions, *of_reading)

    def _clip_s(self, pixels: Sequence[Tensor], captions: list[str]) -> np.ndarray:
        """2.5 max(cos, 0), as Hessel et al. 2021."""
        images = self.scores.images(pixels)
        texts = self.scores.texts(prefixed(captions, self.prefix), truncate=True)
        images, texts = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, texts))
        return clip_s(images, texts).astype(np.float32)


class ExtractCaptions:
    """`captioner` is `tiny` (embedded) or the path of a checkpoint that `caption_train` wrote.

    The checkpoint says which model its grid features come from; `model` says how models run, and its `model_name`, if
    given, where the weights of that one are now. `score_model` gives the CLIP-S: the name of a model of `model`'s
    family, by default the model of the grids. Videos get a caption a second unless `frames` says otherwise; of
    `pictures`, `resize` and `convert_rgb` are the captioner's.
    """

    def __init__(
        self,
        *,
        captioner: str = "tiny",
        model: ModelChoice | None = None,
        score_model: str | None = None,
        prefix: str = PREFIX,
        decoding: Decoding | None = None,
        frames: FrameOptions | None = None,
        pictures: PictureOptions | None = None,
        batch_size: int = 32,
    ) -> None:
        check_count("batch_size", batch_size)
        check_text("clip_prefix", prefix)
        model, frames, pictures = model or ModelChoice(), frames or FrameOptions(), pictures or PictureOptions()
        if frames.extraction_fps is None and frames.extraction_total is None:
            frames = replace(frames, extraction_fps=1)
        decoding = decoding or Decoding()
        self.batch_size, self.on_error = batch_size, frames.on_error
        path = find_captioner(str(captioner))
        loaded = load_captioner(path)
        grid, score = _models(model, score_model, loaded.features, path)
        loaded.model.to(grid.device)
        wanted = {key: loaded.features[key] for key in ("resize", "convert_rgb") if key in loaded.features}
        views = TwoViews(
            replace(pictures, **wanted).for_tower(grid.model.visual),
            preparation_for(score.model.visual, pictures.preprocess),
        )
        output = CaptionOutput(
            loaded,
            decoding,
            Encoder(grid.model, device=grid.device, precision=grid.precision),
            Encoder(score.model, device=score.device, precision=score.precision),
            prefix,
            folder=f"{FEATURE_TYPE}/{folder_name(str(captioner))}",
            settings={
                "feature_type": FEATURE_TYPE,
                "captioner_sha256": file_sha256(path),
                "score_weights_sha256": score.settings.get("weights_sha256", score.weights),
                "prefix": prefix,
                "precision": score.precision,
                "decoding": vars(decoding),
            },
            weights=str(path),
            pieces=Pieces(grid.device),
        )
        images = Images(
            output, views, exif_orientation=pictures.exif_orientation, limits=pictures.limits, ahead=2 * batch_size
        )
        self.streams = {"video": Videos(output, views, frames), "image": images}
        self.shows: list[Show] = []


def _models(
    model: ModelChoice, score_model: str | None, features: Mapping[str, Any], captioner: Path
) -> tuple[LoadedModel, LoadedModel]:
    """Those of the grids and of the CLIP-S. The grids' is the one of training unless `model` names where it is now.

    UserError for other weights: their grids would give captions, too, only wrong ones.
    """
    of_grids = model
    if model.model_name is None:
        feature_type = features.get("feature_type", "clip")
        family = model.family if feature_type == model.feature_type else {}
        of_grids = replace(model, feature_type=feature_type, model_name=features["model_name"], family=family)
    grid = load(replace(of_grids, resolution=features.get("resolution")))
    expected, found = features.get("weights_sha256"), grid.settings.get("weights_sha256")
    if expected and expected != found:
        raise UserError(
            f"{captioner}: trained on features of {features['model_name']} with SHA-256 {expected}, but {grid.weights} "
            f"has {found}; give the right weights as model_name"
        )
    return grid, load(replace(model, model_name=score_model) if score_model else of_grids)
