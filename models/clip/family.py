"""`feature_type=clip`: OpenAI's models, `tiny` and any CLIP checkpoint."""

from pathlib import Path
from typing import Any

from extraction.towers import FoundModel
from models.clip.layouts import files_that_count
from models.clip.positions import Interpolation
from models.clip.weights import EMBEDDED, URLS, find_weights, load_model
from models.licence import licence_beside

_OWN_LICENCES = dict.fromkeys(URLS, "MIT (openai/CLIP)") | dict.fromkeys(EMBEDDED, "MIT (this project)")


def load(
    model_name: str,
    *,
    activation: str | None = None,
    resolution: int | None = None,
    interpolation: Interpolation = "bicubic",
    download_root: str | Path | None = None,
    offline: bool = False,
) -> FoundModel:
    """`model_name` as `find_weights` understands it, the others as `load_model`."""
    weights = find_weights(model_name, download_root=download_root, offline=offline)
    model = load_model(weights, activation=activation, resolution=resolution, interpolation=interpolation)
    name = folder_name(model_name)
    settings: dict[str, Any] = {
        "model_name": model_name if model_name in URLS else name,
        "activation": activation or "as the checkpoint says",
    }
    if resolution is not None:
        settings["interpolation"] = interpolation
    return FoundModel(
        model=model,
        name=name,
        weights=str(weights),
        files=files_that_count(weights),
        settings=settings,
        licence=_OWN_LICENCES.get(model_name) or licence_beside(weights),
    )


def folder_name(model_name: str) -> str:
    """`ViT-B/32` -> `ViT-B_32`; a checkpoint given by its path stands there by its stem."""
    path = Path(model_name).expanduser().absolute()
    if model_name in {**URLS, **EMBEDDED} or not path.exists():
        return model_name.replace("/", "_")
    return path.name if path.is_dir() else path.stem
