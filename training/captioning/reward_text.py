"""The text tower of a CLIP model that judges captions: it is looked at, never trained."""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.clip.model import CLIP
from models.clip.text import TextTransformer
from models.clip.weights import find_weights, load_model
from models.clip_s import prefixed
from utils.errors import UserError, check_text


class FrozenText:
    """Captions behind one prefix. Equal captions are encoded once, those of the last call not again."""

    def __init__(self, model: CLIP, *, prefix: str, batch_size: int = 512) -> None:
        self.prefix = prefix
        self._model = model.eval().requires_grad_(False)
        self._model.visual = nn.Identity()  # its weights are of no use here
        self._batch_size = batch_size
        self._device = torch.device("cpu")
        self._last: tuple[list[str], Tensor] = ([], torch.empty(0))

    def to(self, device: torch.device) -> None:
        self._device, self._last = device, ([], torch.empty(0))
        self._model.to(device)

    @torch.no_grad()
    def pooled(self, captions: list[str]) -> Float[Tensor, "n c"]:
        """Features at the end token before their projection (as a grammar's head takes them), on the device."""
        if not isinstance(self._model.text, TextTransformer):
            raise UserError(
                f"grammar is judged with CLIP's text transformer, not with {type(self._model.text).__name__}"
            )
        return self._features(captions)

    @torch.no_grad()
    def embeddings(self, captions: list[str]) -> Float[np.ndarray, "n e"]:
        """Of length 1."""
        features = self._features(captions)
        if isinstance(self._model.text, TextTransformer):
            features = features @ self._model.text.text_projection
        return F.normalize(features, dim=1).cpu().numpy()

    def _features(self, captions: list[str]) -> Tensor:
        """Pooled ones of a text transformer, else those in the space that images share."""
        if captions != self._last[0]:
            number = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
            tokens = shortened(self._model.tokenize(prefixed(number, self.prefix), truncate=True))
            features = torch.cat([self._encode(part) for part in tokens.split(self._batch_size)])
            rows = torch.tensor([number[caption] for caption in captions], device=features.device)
            self._last = (list(captions), features[rows])
        return self._last[1]

    def _encode(self, tokens: Tensor) -> Tensor:
        text, tokens = self._model.text, tokens.to(self._device)
        return (text.pooled(tokens) if isinstance(text, TextTransformer) else text(tokens)).float()


def shortened(tokens: Int[Tensor, "b t"]) -> Int[Tensor, "b s"]:
    """Without what stands behind the last end (the largest id): it changes nothing and costs time."""
    return tokens[:, : int(tokens.argmax(dim=1).max()) + 1]


@cache
def frozen_text(model_name: str, prefix: str) -> FrozenText:
    """The same one for all rewards that ask for it: they share its features."""
    check_text("clip_prefix", prefix)
    return FrozenText(load_model(find_weights(model_name)), prefix=prefix)


def check_width(images: Float[np.ndarray, "n e"], texts: Float[np.ndarray, "m d"], model_name: str) -> None:
    """UserError unless both may come from one model."""
    if images.shape[1] != texts.shape[1]:
        raise UserError(
            f"the images' embeddings have {images.shape[1]} numbers, {model_name}'s texts {texts.shape[1]}: "
            "they have to come from one model (embeddings_path, reward_model)"
        )
