"""Training of a captioner as a task: the objective gives the gradient, all else is the same for both phases."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from models.captioner.checkpoint import describe, save_captioner
from models.captioner.model import Captioner
from pairs.loading import Loading
from training.captioning.data import CaptionBatch, CaptionData
from training.captioning.rewards import Reward
from training.captioning.validation import CaptionValidation
from training.compute import Compute
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


@dataclass
class CaptionerTask:
    """`features` describes the grids the captioner is trained on; it goes into its checkpoints."""

    model: Captioner
    objective: Objective
    data: CaptionData
    validation: CaptionValidation
    features: Mapping[str, Any]
    goal: Goal = HIGHEST_CIDER
    loss: nn.Module = field(default_factory=nn.Module)  # has no weights here

    @property
    def settings(self) -> dict[str, Any]:
        return self.objective.settings

    def steps_per_epoch(self, loading: Loading) -> int:
        return self.data.train.steps_per_epoch(loading)

    def batches(self, loading: Loading, *, epoch: int, start: int = 0) -> Iterator[CaptionBatch]:
        return self.data.train.batches(loading, epoch=epoch, start=start)

    def ids(self, batch: CaptionBatch) -> list[str]:
        return batch.image_ids

    def backward(self, batch: CaptionBatch, compute: Compute, accumulation: int = 1) -> Values:
        return self.objective.backward(self.model, batch, compute, accumulation)

    def after_step(self) -> None:
        pass

    def validate(self, model: Captioner, compute: Compute, loading: Loading) -> dict[str, float]:
        return {f"held_out/{key}": value for key, value in self.validation(model, compute, loading).items()}

    def description(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """`last.pt` and `best.pt` are captioners, too. Their weights are in the file once, being shared."""
        return describe(self.model, self.data.vocabulary, self.features) | {"captioner": dict(weights)}

    def export(self, model: Captioner, folder: Path) -> None:
        save_captioner(folder / "captioner.pt", model, self.data.vocabulary, self.features)
