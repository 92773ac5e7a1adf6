"""The module of openai/CLIP for notebooks: `available_models`, `load`, `tokenize`; same signatures, same results."""

import torch

from extraction.precision import convert_weights
from extraction.preprocess import Preprocess
from models.clip.model import CLIP
from models.clip.weights import find_weights, load_model

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
