"""The module of openai/CLIP (`import clip`): `available_models`, `load`, `tokenize`; same signatures, same results."""

from typing import TYPE_CHECKING, Any

import torch

from extraction.preprocess import Preprocess
from models.clip.model import CLIP, convert_weights
from models.clip.weights import find_weights, load_model

if TYPE_CHECKING:
    from extraction.extractor import FeatureExtractor

DEFAULT_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def load(
    name: str,
    device: str | torch.device = DEFAULT_DEVICE,
    jit: bool = False,
    download_root: str | None = None,
) -> tuple[CLIP, Preprocess]:
    """(model, preprocess). `name`: one of `available_models()`, `custom`, or the path of any CLIP checkpoint.

    As in the original the model is in evaluation mode, half precision on CUDA and float32 on the CPU.
    `jit` is accepted for compatibility: the model is the ordinary module either way, with the same results.
    """
    model = load_model(find_weights(name, download_root=download_root))
    device = torch.device(device)
    if device.type == "cuda":
        convert_weights(model, torch.float16)
    return model.to(device), Preprocess.of(model.visual)


def ExtractCLIP(model_name: str = "ViT-B/32", **options: Any) -> "FeatureExtractor":  # noqa: N802 - video_features' name
    """The feature pipeline, without Hydra. `options` are the keys of `python main.py`; UserError for any other:

    features = ExtractCLIP(model_name="ViT-B/32", extraction_fps=1).extract("video.mp4")
    features["clip"], features["fps"], features["timestamps_ms"]  # (t, d), (), (t,)
    """
    from models.load import extractor  # late: with it come decoders, which a model alone does not need

    return extractor("clip", model_name=model_name, **options)
