"""The text side of a model that judges captions: it is looked at, never trained."""

from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from extraction.towers import ImageTextModel, LoadedModel
from models.clip.model import CLIP
from models.clip.weights import weights_sha256
from models.clip_s import prefixed
from models.load import ModelChoice, load
from utils.errors import UserError, check_text


class JudgeText(Protocol):
    """What is asked of it: a part of `extraction.towers.TextTower`."""

    def tokenize(self, texts: list[str], *, truncate: bool = False) -> Int[Tensor, "b t"]: ...

    def pooled(self, tokens: Int[Tensor, "b t"]) -> Float[Tensor, "b c"]: ...

    def project(self, pooled: Float[Tensor, "b c"]) -> Float[Tensor, "b e"]: ...

    def to(self, device: torch.device, /) -> object: ...


@dataclass(frozen=True)
class WholeText:
    """A model of another family as a judge: its texts' features come in one step, and are taken as they are."""

    model: ImageTextModel

    def tokenize(self, texts: list[str], *, truncate: bool = False) -> Int[Tensor, "b t"]:
        return self.model.tokenize(texts, truncate=truncate)

    def pooled(self, tokens: Int[Tensor, "b t"]) -> Float[Tensor, "b c"]:
        return self.model.encode_text(tokens)

    def project(self, pooled: Float[Tensor, "b c"]) -> Float[Tensor, "b e"]:
        return pooled

    def to(self, device: torch.device) -> None:
        self.model.to_precision("fp32", device)


class FrozenText:
    """Captions behind one prefix. Equal captions are encoded once, those of the last call not again.

    `text` is a module in evaluation mode that nobody trains.
    """

    def __init__(self, text: JudgeText, *, prefix: str, batch_size: int = 512) -> None:
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
def frozen_text(model_name: str, prefix: str, feature_type: str = "clip") -> FrozenText:
    """The same one for all rewards that ask for it: they share its features."""
    check_text("clip_prefix", prefix)
    if feature_type != "clip":
        return FrozenText(WholeText(_loaded(model_name, feature_type).model), prefix=prefix)
    return FrozenText(text_model(model_name).eval().requires_grad_(False).text, prefix=prefix)


def judge_sha256(model_name: str, feature_type: str) -> str | None:
    """Of its weights, as the extractor notes it beside embeddings."""
    if feature_type == "clip":
        return weights_sha256(model_name)  # without loading them
    return _loaded(model_name, feature_type).settings.get("weights_sha256")


@cache
def _loaded(model_name: str, feature_type: str) -> LoadedModel:
    return load(ModelChoice(feature_type=feature_type, model_name=model_name, device="cpu"))


def check_width(images: Float[np.ndarray, "n e"], texts: Float[np.ndarray, "m d"], model_name: str) -> None:
    """UserError unless both may come from one model."""
    if images.shape[1] != texts.shape[1]:
        raise UserError(
            f"the images' embeddings have {images.shape[1]} numbers, {model_name}'s texts {texts.shape[1]}: "
            "they have to come from one model (embeddings_path, reward_model)"
        )
