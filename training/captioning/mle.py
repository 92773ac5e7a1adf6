"""Maximum likelihood: the captioner learns to say the next word of people's captions (phase 1).

Paper: Cho et al. 2022, section 3.1. The divisor is the number of words of the whole batch, of all processes.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from models.captioner.model import Captioner
from training.captioning.data import CaptionBatch, CaptionData, parts
from training.captioning.rewards import Reward
from training.compute import Compute
from training.distributed import sum_of_all, world_size
from training.task import Values
from utils.errors import check_number


class Likelihood:
    """Cross-entropy of each word and of the end.

    `label_smoothing` spreads that share of the target over all words; the original has it too, and leaves it at 0.
    """

    starts_from_weights = False
    rewards: Mapping[str, Reward] = {}

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        check_number("label_smoothing", label_smoothing, least=0, most=1)
        self.label_smoothing = label_smoothing
        self.settings: dict[str, Any] = {"objective": "likelihood", "label_smoothing": label_smoothing}

    def prepare(self, data: CaptionData, device: torch.device) -> None:
        pass

    def backward(self, model: Captioner, batch: CaptionBatch, compute: Compute, accumulation: int = 1) -> Values:
        words = sum_of_all(batch.mask[..., 1:].sum().to(compute.device))
        share = world_size() / words  # processes take the mean of their gradients
        total = torch.zeros((), device=compute.device)
        for part in parts(batch, accumulation, compute.device):
            loss = summed_loss(model, part, compute, self.label_smoothing) * share
            compute.scaler.scale(loss).backward()
            total += loss.detach()
        return {"loss": float(total)}


def summed_loss(
    model: Captioner, batch: CaptionBatch, compute: Compute, label_smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Over all words and ends of a batch on the device, not divided by their number."""
    with compute.autocast():
        logits = model(batch.grids, batch.labels[..., :-1], batch.grid_mask)
    return (word_losses(logits, batch.labels[..., 1:], label_smoothing) * batch.mask[..., 1:]).sum()


def word_losses(
    logits: Float[Tensor, "b k t v"], targets: Int64[Tensor, "b k t"], label_smoothing: float = 0.0
) -> Float[Tensor, "b k t"]:
    """In float32 whatever the logits' precision."""
    losses = F.cross_entropy(
        logits.flatten(0, 2).float(), targets.flatten(), reduction="none", label_smoothing=label_smoothing
    )
    return losses.view(targets.shape)
