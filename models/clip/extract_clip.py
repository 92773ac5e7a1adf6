"""`feature_type=clip`: OpenAI's models, `tiny` and any CLIP checkpoint. Usable without Hydra:

features = ExtractCLIP(model_name="ViT-B/32", extraction_fps=1).extract("video.mp4")
features["clip"], features["fps"], features["timestamps_ms"]  # (t, d), (), (t,)
"""

from pathlib import Path
from typing import Any

from extraction.extractor import Extractor
from models.clip.layouts import weights_file
from models.clip.positions import Interpolation
from models.clip.weights import EMBEDDED, URLS, find_weights, load_model
from store.provenance import file_sha256

FEATURE_TYPE = "clip"


class ExtractCLIP(Extractor):
    """Videos, images and texts -> features, float32 and not L2-normalised unless `normalize`.

    Where rows of a video are re-timed (`extraction_fps`, `extraction_total`), `timestamps_ms` are the rows' own times
    and `source_timestamps_ms` those of the frames shown. `options` are those of `Extractor`.
    """

    def __init__(
        self,
        *,
        model_name: str = "ViT-B/32",
        resolution: int | None = None,
        interpolation: Interpolation = "bicubic",
        activation: str | None = None,
        download_root: str | Path | None = None,
        offline: bool = False,
        **options: Any,
    ) -> None:
        model_name = str(model_name)
        weights = find_weights(model_name, download_root=download_root, offline=offline)
        model = load_model(weights, activation=activation, resolution=resolution, interpolation=interpolation)
        identity = {
            "feature_type": FEATURE_TYPE,
            "model_name": model_name if model_name in URLS else folder_name(model_name),
            "weights_sha256": file_sha256(weights_file(weights)),
            "activation": activation or "as the checkpoint says",
        }
        if resolution is not None:
            identity["interpolation"] = interpolation
        folder = f"{FEATURE_TYPE}/{folder_name(model_name)}"
        super().__init__(model, folder=folder, identity=identity, weights=str(weights), **options)


def folder_name(model_name: str) -> str:
    """`ViT-B/32` -> `ViT-B_32`; a checkpoint given by its path stands there by its stem."""
    path = Path(model_name).expanduser().absolute()
    if model_name in {**URLS, **EMBEDDED} or not path.exists():
        return model_name.replace("/", "_")
    return path.name if path.is_dir() else path.stem
