"""How well captions and negatives of held-out images are told apart, and how near captions are to their images."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evaluation.clip.retrieval import image_to_text_ranks, rank_metrics, text_to_image_ranks


def summary(
    images: Float[Tensor, "n e"], texts: Float[Tensor, "n e"], grammatical: Bool[Tensor, "2 n"], kinds: Sequence[str]
) -> dict[str, float]:
    """Recalls in percent, and shares: of right answers in all, and of negatives found by kind of edit.

    Rows have length 1, and row k belongs to row k. `grammatical` is what the head takes for it: of the captions, and of
    their negatives, which are of these `kinds`.
    """
    own, metrics = np.arange(len(images)), {}
    for way, ranks in (("image_to_text", image_to_text_ranks), ("text_to_image", text_to_image_ranks)):
        recalls = rank_metrics(ranks(images.numpy(), texts.numpy(), own))
        metrics |= {f"{way}_{key}": value for key, value in recalls.items() if key.endswith("_percent")}
    metrics |= confusion_metrics(grammatical.flatten(), truth(len(kinds)))
    for kind in sorted(set(kinds)):
        missed = grammatical[1, torch.tensor([each == kind for each in kinds])]
        metrics[f"found_{kind}"] = 1 - float(missed.double().mean())
    return metrics


def truth(captions: int) -> Bool[Tensor, " 2*b"]:
    """True for captions, false for as many negatives behind them."""
    return torch.arange(2 * captions) < captions


def confusion_metrics(predicted: Bool[Tensor, " n"], labels: Bool[Tensor, " n"]) -> dict[str, float]:
    """Shares, 0..1; "grammatical" is the positive class, and 0 stands for 0 / 0."""
    true_positive = int((predicted & labels).sum())
    precision = true_positive / max(int(predicted.sum()), 1)
    recall = true_positive / max(int(labels.sum()), 1)
    return {
        "accuracy": float((predicted == labels).float().mean()),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if true_positive else 0.0,
    }
