"""How well captions and negatives of held-out images are told apart, and how near captions are to their images."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from evaluation.clip.retrieval import image_to_text_ranks, rank_metrics, text_to_image_ranks
from training.captioning.grammar_data import GrammarBatch
from training.captioning.grammar_head import GRAMMATICAL


@dataclass(frozen=True)
class Finding:
    """Of one batch, on the CPU."""

    losses: dict[str, float]
    images: Float[Tensor, "b e"]  # of length 1, as the texts
    texts: Float[Tensor, "b e"]
    grammatical: Bool[Tensor, " 2*b"]  # as the head has it: captions, then negatives
    kinds: list[str]  # of the negatives

    @classmethod
    def of(
        cls,
        batch: GrammarBatch,
        texts: Float[Tensor, "b e"],
        logits: Float[Tensor, "2*b 2"],
        losses: Mapping[str, Tensor],
    ) -> "Finding":
        return cls(
            {key: float(value) for key, value in losses.items()},
            batch.embeddings,
            F.normalize(texts, dim=1).cpu(),
            (logits.argmax(dim=1) == GRAMMATICAL).cpu(),
            [negative.kind for negative in batch.negatives],
        )


def summary(findings: Sequence[Finding]) -> dict[str, float]:
    """Mean losses, recalls in percent, and shares: of right answers in all, and of negatives found by kind of edit."""
    sizes = [len(finding.kinds) for finding in findings]
    metrics = {
        key: sum(finding.losses[key] * size for finding, size in zip(findings, sizes, strict=True)) / sum(sizes)
        for key in findings[0].losses
    }
    images, texts = (torch.cat([getattr(finding, key) for finding in findings]).numpy() for key in ("images", "texts"))
    predicted = torch.cat([finding.grammatical for finding in findings])
    metrics |= both_ways_recalls(images, texts) | confusion_metrics(
        predicted, torch.cat([truth(size) for size in sizes])
    )
    seen, found = Counter[str](), Counter[str]()
    for finding, size in zip(findings, sizes, strict=True):
        seen.update(finding.kinds)
        missed = finding.grammatical[size:].tolist()
        found.update(kind for kind, miss in zip(finding.kinds, missed, strict=True) if not miss)
    return metrics | {f"found_{kind}": found[kind] / seen[kind] for kind in sorted(seen)}


def truth(captions: int) -> Bool[Tensor, " 2*b"]:
    """True for captions, false for as many negatives behind them."""
    return torch.arange(2 * captions) < captions


def both_ways_recalls(images: Float[np.ndarray, "n e"], texts: Float[np.ndarray, "n e"]) -> dict[str, float]:
    """Recall at 1, 5 and 10 both ways, in percent; row k belongs to row k."""
    own = np.arange(len(images))
    ranks = {
        "image_to_text": image_to_text_ranks(images, texts, own),
        "text_to_image": text_to_image_ranks(images, texts, own),
    }
    return {
        f"{way}_{key}": value
        for way, found in ranks.items()
        for key, value in rank_metrics(found).items()
        if key.endswith("_percent")
    }


def confusion_metrics(predicted: Bool[Tensor, " n"], labels: Bool[Tensor, " n"]) -> dict[str, float]:
    """Shares, 0..1; "grammatical" is the positive class, and 0 stands for 0 / 0."""
    true_positive = int((predicted & labels).sum())
    false_positive = int((predicted & ~labels).sum())
    false_negative = int((~predicted & labels).sum())
    precision = true_positive / max(true_positive + false_positive, 1)
    recall = true_positive / max(true_positive + false_negative, 1)
    return {
        "accuracy": float((predicted == labels).float().mean()),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if true_positive else 0.0,
    }
