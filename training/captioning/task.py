"""Training of a captioner as a task: the objective gives the gradient, all else is the same for both phases."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from evaluation.captions.caption_set import CaptionMetric
from evaluation.captions.score import score_captions
from models.captioner.checkpoint import describe, save_captioner
from models.captioner.decoding import decode
from models.captioner.model import Captioner
from models.captioner.options import Decoding
from pairs.loading import Loading
from training.captioning.data import CaptionBatch, CaptionData, parts
from training.captioning.mle import summed_loss
from training.captioning.rewards import Reward, RewardImages
from training.compute import Compute
from training.distributed import from_all
from training.task import Goal, Values

HIGHEST_CIDER = Goal("held_out/cider", highest=True)


class Objective(Protocol):
    """What a captioner is trained for (config group `caption_phase`); for its methods see `training.task.Task`."""

    starts_from_weights: bool  # of a captioner that was trained before
    settings: dict[str, Any]
    rewards: Mapping[str, Reward]  # what validation reports besides its metrics, as `reward_<name>`

    def prepare(self, data: CaptionData, device: torch.device) -> None:
        """Called once, before the first step."""
        ...

    def backward(self, model: Captioner, batch: CaptionBatch, compute: Compute, accumulation: int = 1) -> Values: ...


@dataclass(frozen=True)
class Judged:
    """What one process found on its share of the images."""

    captions: dict[str, str]  # by image id
    references: dict[str, list[str]]
    judged: dict[str, list[float]]  # by judge, a value an image
    loss: float  # summed over the words
    words: float


@dataclass
class CaptionerTask:
    """`features` describes the grids the captioner is trained on; it goes into its checkpoints.

    Greedy captions (or as `decoding` has it) of held-out images are measured by `loss` a word, the metrics of
    `score_captions`, and the means of `judges` by their names.
    """

    model: Captioner
    objective: Objective
    data: CaptionData
    features: Mapping[str, Any]
    decoding: Decoding
    judges: Mapping[str, Reward] = field(default_factory=dict)
    metrics: Mapping[str, CaptionMetric] | None = None
    goal: Goal = HIGHEST_CIDER
    loss: nn.Module = field(default_factory=nn.Module)  # has no weights here

    @property
    def settings(self) -> dict[str, Any]:
        return self.objective.settings

    def batches(self, loading: Loading, *, epoch: int, start: int = 0) -> Iterator[CaptionBatch]:
        return self.data.train.batches(loading, epoch=epoch, start=start)

    def backward(self, batch: CaptionBatch, compute: Compute, accumulation: int = 1) -> Values:
        return self.objective.backward(self.model, batch, compute, accumulation)

    def after_step(self) -> None:
        pass

    @torch.no_grad()
    def validate(self, model: Captioner, compute: Compute, loading: Loading) -> dict[str, float]:
        """Each process captions its share, all score everything."""
        model.eval()
        shares: list[Judged] = from_all(self._own_share(model, compute, loading))
        captions = {image_id: caption for share in shares for image_id, caption in share.captions.items()}
        references = {image_id: own for share in shares for image_id, own in share.references.items()}
        found = {"loss": sum(share.loss for share in shares) / sum(share.words for share in shares)}
        found |= score_captions(captions, references, metrics=self.metrics)
        for name in self.judges:
            values = [value for share in shares for value in share.judged[name]]
            found[name] = sum(values) / len(values)
        return {f"held_out/{key}": value for key, value in found.items()}

    def _own_share(self, model: Captioner, compute: Compute, loading: Loading) -> Judged:
        captions, references, loss, words = {}, {}, 0.0, 0.0
        judged: dict[str, list[float]] = {name: [] for name in self.judges}
        for batch in self.data.validation.in_order(loading):
            (batch,) = parts(batch, 1, compute.device)
            loss += float(summed_loss(model, batch, compute))
            words += float(batch.mask[..., 1:].sum())
            with compute.autocast():
                decoded = decode(model, batch.grids, self.decoding, self.data.vocabulary, grid_mask=batch.grid_mask)
            sentences = self.data.vocabulary.sentences(decoded.tokens)
            captions |= zip(batch.ids, sentences, strict=True)
            references |= zip(batch.ids, batch.references, strict=True)
            for name, judge in self.judges.items():
                judged[name] += judge(RewardImages.of(batch), sentences).tolist()
        return Judged(captions, references, judged, loss, words)

    def description(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """`last.pt` and `best.pt` are captioners, too. Their weights are in the file once, being shared."""
        return describe(self.model, self.data.vocabulary, self.features) | {"captioner": dict(weights)}

    def export(self, model: Captioner, folder: Path) -> None:
        save_captioner(folder / "captioner.pt", model, self.data.vocabulary, self.features)
