"""Which of these texts fits the picture? Zero-shot predictions, as video_features' `show_pred` prints them."""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from extraction.encoder import Encoder
from extraction.towers import Probability
from utils.types import Features

KINETICS_PROMPT = "a photo of {}"  # no article, no full stop: as in video_features
HEADER = "  Logits | Prob. | Label "
_ROWS = 1024


@dataclass(frozen=True)
class TextPredictor:
    """Texts and their features, computed once; `predict` is then a matrix product.

    Logits are `scale` times the cosines plus `bias`; `probability` is what the model was trained with.
    """

    texts: list[str]
    features: Float[np.ndarray, "n e"]  # not normalised
    scale: float  # 100 in OpenAI's models
    bias: float = 0.0
    probability: Probability = "softmax"

    @classmethod
    def from_texts(cls, encoder: Encoder, texts: list[str] | None) -> "TextPredictor":
        """`None` stands for the 400 classes of Kinetics; they are shown by their prompt, as in video_features."""
        texts = texts or [KINETICS_PROMPT.format(name) for name in kinetics_classes()]
        model = encoder.model
        scale = float(model.logit_scale.detach().double().exp())
        bias = 0.0 if model.logit_bias is None else float(model.logit_bias.detach())
        return cls(texts, encoder.texts(texts), scale, bias, model.probability)

    def logits(self, features: Float[np.ndarray, "t e"]) -> Float[np.ndarray, "t n"]:
        """In float64."""
        images, texts = features.astype(np.float64), self.features.astype(np.float64)
        images /= np.linalg.norm(images, axis=1, keepdims=True)
        texts /= np.linalg.norm(texts, axis=1, keepdims=True)
        return self.scale * images @ texts.T + self.bias

    def probabilities(self, logits: Float[np.ndarray, "t n"]) -> Float[np.ndarray, "t n"]:
        """By softmax they sum to 1 over all texts, however poorly all fit; by sigmoid each text has its own."""
        if self.probability == "sigmoid":
            return 0.5 * (1 + np.tanh(0.5 * logits))  # never overflows
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    def predict(self, features: Float[np.ndarray, "t e"], top: int = 5) -> list[dict[str, Any]]:
        """The best `top` texts of every row: `{"labels": [...], "logits": [...], "probabilities": [...]}`."""
        found = []
        for start in range(0, len(features), _ROWS):  # the tables of a long video would be larger than its features
            logits = self.logits(features[start : start + _ROWS])
            probabilities = self.probabilities(logits)
            best = np.argsort(-logits, axis=1, kind="stable")[:, :top]
            found += [
                {
                    "labels": [self.texts[i] for i in columns],
                    "logits": logits[row, columns].tolist(),
                    "probabilities": probabilities[row, columns].tolist(),
                }
                for row, columns in enumerate(best)
            ]
        return found


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
