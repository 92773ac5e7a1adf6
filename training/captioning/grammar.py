"""A text tower learns grammar: people's captions against corrupted ones, while it stays near its images.

Paper: Cho et al. 2022, section 3.3. Deliberate differences: captions stand behind the prefix that the reward will put
before them; precision and recall are not interchanged; InfoNCE compares with the images of all processes.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from models.clip.description import describe
from models.clip.model import CLIP
from models.clip_s import PREFIX, prefixed
from pairs.loading import Loading
from training import distributed
from training.captioning.grammar_data import GrammarBatch, GrammarData
from training.captioning.grammar_findings import summary, truth
from training.captioning.grammar_head import GRAMMATICAL, GrammarHead
from training.checkpoint import save
from training.compute import Compute
from training.contrastive.losses import ClipLoss
from training.task import LOWEST_LOSS, Goal, Values
from utils.errors import UserError


class GrammarLoss(nn.Module):
    """Symmetric InfoNCE of images and captions, and the head's cross-entropy over captions and negatives.

    The head is a part of it, so that checkpoints are files of the tuned CLIP model, with the head under `loss`.
    """

    def __init__(self, width: int, *, grammar_weight: float = 1.0) -> None:
        super().__init__()
        self.head = GrammarHead(width)
        self.contrastive = ClipLoss()
        self.grammar_weight = grammar_weight

    def of_features(
        self, images: Float[Tensor, "b e"], texts: Float[Tensor, "b e"], logit_scale: Float[Tensor, ""], logits: Tensor
    ) -> dict[str, Float[Tensor, ""]]:
        """`logits` (2 b, 2) are the head's: captions first, then negatives."""
        pairs = torch.arange(len(images), device=images.device)
        contrastive = self.contrastive(images, texts, logit_scale, pairs)
        grammar = F.cross_entropy(logits, truth(len(logits) // 2).long().to(logits.device))
        total = contrastive + self.grammar_weight * grammar
        return {"loss": total, "contrastive_loss": contrastive, "grammar_loss": grammar}


@dataclass
class GrammarTask:
    """The text tower, its projection, the logit scale and the head learn; images are embeddings, which stay."""

    model: CLIP
    loss: GrammarLoss
    data: GrammarData
    prefix: str = PREFIX
    goal: Goal = LOWEST_LOSS

    def __post_init__(self) -> None:
        for parameter in self.model.visual.parameters():
            parameter.requires_grad_(False)

    @property
    def settings(self) -> dict[str, Any]:
        return {"prefix": self.prefix, "grammar_weight": self.loss.grammar_weight}

    def batches(self, loading: Loading, *, epoch: int, start: int = 0) -> Iterator[GrammarBatch]:
        return self.data.train.batches(loading, epoch=epoch, start=start)

    def backward(self, batch: GrammarBatch, compute: Compute, accumulation: int = 1) -> Values:
        """UserError for `accumulation` other than 1: every caption is compared with every image."""
        if accumulation != 1:
            raise UserError(f"accumulation={accumulation}: the grammar's batches are computed whole, expected 1")
        texts, logits = self.encode(self.model, batch, compute)
        # The logits stay with their process: the mean of the processes' gradients is that of all rows.
        images, texts = distributed.gather(batch.embeddings.to(compute.device)), distributed.gather(texts)
        values = self.loss.of_features(images, texts, self.model.logit_scale, logits)
        compute.scaler.scale(values["loss"]).backward()
        accuracy = (logits.argmax(dim=1).cpu() == truth(len(batch.captions))).float().mean()
        detached: Values = {key: value.detach() for key, value in values.items()}
        return detached | {"accuracy": accuracy, "logit_scale": self.model.logit_scale.detach().exp()}

    def encode(
        self, model: CLIP, batch: GrammarBatch, compute: Compute
    ) -> tuple[Float[Tensor, "b e"], Float[Tensor, "2*b 2"]]:
        """Captions as features, not normalised; and the head's logits for captions, then negatives."""
        text = model.text
        texts = prefixed([*batch.captions, *(" ".join(negative.words) for negative in batch.negatives)], self.prefix)
        tokens = model.tokenize(texts, truncate=True).to(compute.device, non_blocking=True)
        with compute.autocast():
            features = text.pooled(tokens)
            return text.project(features[: len(batch.captions)]).float(), self.loss.head(features).float()

    def after_step(self) -> None:
        self.model.clamp_logit_scale()

    @torch.no_grad()
    def validate(self, model: CLIP, compute: Compute, loading: Loading) -> dict[str, float]:
        """Losses over batches of the training's size, retrieval over all images, the head's mistakes.

        Every process does all of it.
        """
        model.eval()
        count, losses, kinds = len(self.data.validation), Counter[str](), []
        images, texts, grammatical = [], [], []
        for batch in self.data.validation.in_order(loading.batch_size):
            features, logits = self.encode(model, batch, compute)
            own = self.loss.of_features(batch.embeddings.to(compute.device), features, model.logit_scale, logits)
            losses.update({key: float(value) * len(batch.ids) for key, value in own.items()})
            kinds += [negative.kind for negative in batch.negatives]
            images.append(batch.embeddings)
            texts.append(F.normalize(features, dim=1).cpu())
            grammatical.append((logits.argmax(dim=1) == GRAMMATICAL).cpu().view(2, -1))
        found = {key: total / count for key, total in losses.items()}
        found |= summary(torch.cat(images), torch.cat(texts), torch.cat(grammatical, dim=1), kinds)
        return {f"held_out/{key}": value for key, value in found.items()}

    def description(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"architecture": describe(self.model), "prefix": self.prefix}

    def export(self, model: CLIP, folder: Path) -> None:
        """`grammar.pt`, in half precision: a CLIP model for `model_name=`, and the head."""
        modules = {"model": model, "loss": self.loss}
        content = {
            name: {key: value.detach().cpu().half() if value.is_floating_point() else value for key, value in state}
            for name, state in ((name, module.state_dict().items()) for name, module in modules.items())
        }
        save(folder / "grammar.pt", content | self.description({}))
