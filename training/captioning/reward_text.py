"""The text tower of a CLIP model that judges captions: it is looked at, never trained."""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from extraction.towers import TextTower
from models.clip.model import CLIP
from models.clip_s import prefixed
from models.load import ModelChoice, load
from utils.errors import UserError, check_text


class FrozenText:
    """Captions behind one prefix. Equal captions are encoded once, those of the last call not again.

    `text` is a module in evaluation mode that nobody trains.
    """

    def __init__(self, text: TextTower, *, prefix: str, batch_size: int = 512) -> None:
        self.prefix, self.text = prefix, text
        self._batch_size = batch_size
        self._device = torch.device("cpu")
        self._last: tuple[list[str], Tensor] = ([], torch.empty(0))

    def to(self, device: torch.device) -> None:
        self._device, self._last = device, ([], torch.empty(0))
        self.text.to(device)

    @torch.no_grad()
    def pooled(self, captions: list[str]) -> Float[Tensor, "n c"]:
        """Features before their projection (as a grammar's head takes them), on the device."""
        if captions != self._last[0]:
            number = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
            tokens = self.text.tokenize(prefixed(number, self.prefix), truncate=True)
            parts = [self.text.pooled(part.to(self._device)).float() for part in tokens.split(self._batch_size)]
            features = torch.cat(parts)
            rows = torch.tensor([number[caption] for caption in captions], device=features.device)
            self._last = (list(captions), features[rows])
        return self._last[1]

    @torch.no_grad()
    def embeddings(self, captions: list[str]) -> Float[np.ndarray, "n e"]:
        """Of length 1."""
        return F.normalize(self.text.project(self.pooled(captions)), dim=1).cpu().numpy()


def text_model(model_name: str) -> CLIP:
    """A model of `feature_type=clip`, whose text tower is asked for: float32, on the CPU."""
    model = load(ModelChoice(feature_type="clip", model_name=model_name, device="cpu")).model
    assert isinstance(model, CLIP)  # this family's only kind
    return model


@cache
def frozen_text(model_name: str, prefix: str) -> FrozenText:
    """The same one for all rewards that ask for it: they share its features."""
    check_text("clip_prefix", prefix)
    return FrozenText(text_model(model_name).eval().requires_grad_(False).text, prefix=prefix)


def check_width(images: Float[np.ndarray, "n e"], texts: Float[np.ndarray, "m d"], model_name: str) -> None:
    """UserError unless both may come from one model."""
    if images.shape[1] != texts.shape[1]:
        raise UserError(
            f"the images' embeddings have {images.shape[1]} numbers, {model_name}'s texts {texts.shape[1]}: "
            "they have to come from one model (embeddings_path, reward_model)"
        )
