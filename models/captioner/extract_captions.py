"""The extractor behind `--config-name caption`: images and videos -> captions, each with its CLIP-S.

It goes the way of all features (`extraction.pipeline`): read ahead, batches that span files, resume, ledger, sharing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from extraction.batching import Encoded
from extraction.device import usable_device
from extraction.encoder import Encoder
from extraction.precision import Precision
from extraction.preprocess import Preprocess, PreprocessMode
from extraction.streams import Images, Videos
from media.sampling import sampler_from
from models.captioner.checkpoint import LoadedCaptioner, find_captioner, load_captioner
from models.captioner.decoding import decode
from models.captioner.options import Decoding
from models.clip.extract_clip import folder_name
from models.clip.layouts import weights_file
from models.clip.weights import find_weights, load_model
from models.clip_s import PREFIX, clip_s, prefixed
from store.provenance import file_sha256
from utils.errors import UserError, check_count, check_flags, check_option, check_text
from utils.types import Show

FEATURE_TYPE = "captions"
OnError = Literal["skip", "partial", "raise"]


@dataclass(frozen=True)
class TwoViews:
    """A picture as the captioner's features want it, and as the model that scores the caption does."""

    grid: Preprocess
    score: Preprocess

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
    grid_pool: int
    scores: Encoder
    prefix: str
    folder: str
    settings: dict[str, Any]
    weights: str

    @torch.inference_mode()
    def encode_images(self, contents: Sequence[tuple[Tensor, Tensor]]) -> dict[str, np.ndarray]:
        for_grid, for_score = (torch.stack(list(views)) for views in zip(*contents, strict=True))
        grid = self.grids.features(for_grid, wanted=("grid",), grid_pool=self.grid_pool)["grid"]
        device = next(self.captioner.model.parameters()).device
        decoded = decode(
            self.captioner.model, torch.from_numpy(grid).to(device), self.decoding, self.captioner.vocabulary
        )
        sentences = self.captioner.vocabulary.sentences(decoded.tokens)
        return {"tokens": decoded.tokens.cpu().numpy(), "clip_s": self._clip_s(for_score, sentences)}

    def arrays(self, encoded: Encoded) -> dict[str, np.ndarray]:
        return dict(encoded.features)

    def provenance(self, encoded: Encoded) -> dict[str, Any]:
        return {
            **encoded.end.facts,
            "rows": encoded.rows,
            "weights": self.weights,
            "device": str(self.grids.device),
        }

    def predictions(self, encoded: Encoded) -> list[dict[str, Any]]:
        """`{"timestamp_ms", "caption", "clip_s"}` for every row."""
        captions = self.captioner.vocabulary.sentences(torch.from_numpy(encoded.features["tokens"]))
        return [
            {"timestamp_ms": seconds * 1000, "caption": caption, "clip_s": round(float(clip_s), 6)}
            for seconds, caption, clip_s in zip(encoded.seconds, captions, encoded.features["clip_s"], strict=True)
        ]

    def _clip_s(self, pixels: Tensor, captions: list[str]) -> np.ndarray:
        """2.5 max(cos, 0), as Hessel et al. 2021."""
        images = self.scores.images(pixels)
        texts = self.scores.texts(prefixed(captions, self.prefix), truncate=True)
        images, texts = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, texts))
        return clip_s(images, texts).astype(np.float32)


class ExtractCaptions:
    """`captioner` is `tiny` (embedded) or the path of a checkpoint that `caption_train` wrote.

    The checkpoint says which CLIP model its grid features come from; `model_name` says where that model's weights are,
    if they are not where they were. `score_model` gives the CLIP-S, by default the same model. Videos get a caption a
    second unless `extraction_fps` or `extraction_total` says otherwise.
    """

    def __init__(
        self,
        *,
        captioner: str = "tiny",
        model_name: str | None = None,
        score_model: str | None = None,
        prefix: str = PREFIX,
        decoding: Decoding | None = None,
        extraction_fps: float | str | None = None,
        extraction_total: int | None = None,
        batch_size: int = 32,
        device: str = "cuda:0",
        precision: Precision = "auto",
        preprocess: PreprocessMode = "fast",
        exif_orientation: bool = False,
        download_root: str | Path | None = None,
        offline: bool = False,
        on_error: OnError = "skip",
    ) -> None:
        check_count("batch_size", batch_size)
        check_option("on_error", on_error, get_args(OnError))
        check_option("preprocess", preprocess, get_args(PreprocessMode))
        check_flags(exif_orientation=exif_orientation, offline=offline)
        check_text("clip_prefix", prefix)
        self.batch_size, self.on_error = batch_size, on_error
        where = usable_device(device)
        path = find_captioner(str(captioner))
        loaded = load_captioner(path)
        loaded.model.to(where)
        features = loaded.features
        weights = find_weights(str(model_name or features["model_name"]), download_root=download_root, offline=offline)
        _check_weights(weights, features, path)
        grid_model = load_model(weights, resolution=features.get("resolution"))
        grid_view = Preprocess.of(
            grid_model.visual,
            preprocess,
            resize=features.get("resize"),
            convert_rgb=features.get("convert_rgb", "after_resize"),
        )
        score_weights = (
            find_weights(score_model, download_root=download_root, offline=offline) if score_model else weights
        )
        score = load_model(score_weights)
        scores = Encoder(score, device=where, precision=precision)
        self._decoding = decoding or Decoding()
        output = CaptionOutput(
            loaded,
            self._decoding,
            Encoder(grid_model, device=where, precision=precision),
            features.get("grid_pool", 1),
            scores,
            prefix,
            folder=f"{FEATURE_TYPE}/{folder_name(str(captioner))}",
            settings={
                "feature_type": FEATURE_TYPE,
                "captioner_sha256": file_sha256(path),
                "score_weights_sha256": file_sha256(weights_file(score_weights)),
                "prefix": prefix,
                "precision": scores.precision,
                "decoding": vars(self._decoding),
            },
            weights=str(path),
        )
        views = TwoViews(grid_view, Preprocess.of(score.visual, preprocess))
        on_damage = "keep" if on_error == "partial" else "raise"
        if extraction_fps is None and extraction_total is None:
            extraction_fps = 1
        self.streams = {
            "video": Videos(output, views, sampler_from(extraction_fps, extraction_total), on_damage=on_damage),
            "image": Images(output, views, exif_orientation=exif_orientation, ahead=2 * batch_size),
        }

    @property
    def shows(self) -> list[Show]:
        return []


def _check_weights(weights: Path, features: dict[str, Any], captioner: Path) -> None:
    """Grids of other weights would give captions, too, only wrong ones."""
    expected, found = features.get("weights_sha256"), file_sha256(weights_file(weights))
    if expected and expected != found:
        raise UserError(
            f"{captioner}: trained on features of {features['model_name']} with SHA-256 {expected}, but {weights} has "
            f"{found}; give the right weights as model_name"
        )
