"""Which of these texts fits the picture? Zero-shot predictions, as video_features' `show_pred` prints them."""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from extraction.encoder import Encoder
from utils.types import Features

KINETICS_PROMPT = "a photo of {}"  # no article, no full stop: as in video_features
HEADER = "  Logits | Prob. | Label "


@dataclass(frozen=True)
class ZeroShot:
    """Texts and their features, computed once; `predict` is then a matrix product."""

    texts: list[str]
    features: Float[np.ndarray, "n e"]  # not normalised
    logit_scale: float

    @classmethod
    def from_texts(cls, encoder: Encoder, texts: list[str] | None) -> "ZeroShot":
        """`None` stands for the 400 classes of Kinetics; they are shown by their prompt, as in video_features."""
        texts = texts or [KINETICS_PROMPT.format(name) for name in kinetics_classes()]
        return cls(texts, encoder.texts(texts), encoder.logit_scale)

    def logits(self, features: Float[np.ndarray, "t e"]) -> Float[np.ndarray, "t n"]:
        """exp(logit_scale) times the cosines, in float64."""
        images, texts = features.astype(np.float64), self.features.astype(np.float64)
        images /= np.linalg.norm(images, axis=1, keepdims=True)
        texts /= np.linalg.norm(texts, axis=1, keepdims=True)
        return self.logit_scale * images @ texts.T

    def predict(self, features: Float[np.ndarray, "t e"], top: int = 5) -> list[dict[str, Any]]:
        """The best `top` texts of every row: `{"labels": [...], "logits": [...], "probabilities": [...]}`.

        Probabilities are relative to the given texts: they sum to 1 over all of them, however poorly all fit.
        """
        logits = self.logits(features)
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        best = np.argsort(-logits, axis=1, kind="stable")[:, :top]
        return [
            {
                "labels": [self.texts[i] for i in columns],
                "logits": logits[row, columns].tolist(),
                "probabilities": probabilities[row, columns].tolist(),
            }
            for row, columns in enumerate(best)
        ]


def table(prediction: dict[str, Any]) -> str:
    """One row's predictions as video_features prints them, with the empty line after it."""
    lines = zip(prediction["logits"], prediction["probabilities"], prediction["labels"], strict=True)
    return "\n".join([HEADER, *(f"{logit:8.3f} | {prob:.3f} | {label}" for logit, prob, label in lines), ""])


def kinetics_classes() -> list[str]:
    """The 400 names of Kinetics-400, from torchvision (imported late: it is slow to import)."""
    from torchvision.models.video import R3D_18_Weights

    return R3D_18_Weights.KINETICS400_V1.meta["categories"]


class ShowPredictions:
    """What `show_pred` shows: the table of every row. What is already saved is not computed again just for this."""

    def show(self, features: Features) -> None:
        if features.predictions:  # texts have none
            tqdm.write("\n".join(table(prediction) for prediction in features.predictions), file=sys.stdout)
