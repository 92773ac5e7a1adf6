"""What a training job brings along; `training.fit` does the rest."""

from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from pairs.loading import Loading
from training.compute import Compute
from utils.errors import UserError

Values = dict[str, float | Tensor]  # of one step, by name; scalars


@dataclass(frozen=True)
class Goal:
    """The metric of the validation that tells which checkpoint is the best."""

    metric: str
    highest: bool = False  # the best is the highest, not the lowest

    def cost(self, metrics: Mapping[str, float]) -> float:
        """Lower is better. UserError where the validation does not measure it."""
        if self.metric not in metrics:
            raise UserError(f"the best checkpoint is that of {self.metric}, measured are only {', '.join(metrics)}")
        return -metrics[self.metric] if self.highest else metrics[self.metric]


LOWEST_LOSS = Goal("held_out/loss")


class Splits(Protocol):
    @property
    def train(self) -> Sized:
        """As many rows as an epoch shows."""
        ...


class Task(Protocol):
    """What is trained on which batches, how it is judged, and what is kept of it.

    `model` is trained, and weights of `loss` with it; judged and kept is what `fit` hands over: it or its average. A
    change of `settings` (plain values) makes another run of it. Tasks do not know optimizers, checkpoints or signals.
    """

    @property
    def model(self) -> nn.Module: ...

    @property
    def loss(self) -> nn.Module: ...

    @property
    def goal(self) -> Goal: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    @property
    def data(self) -> Splits: ...

    def batches(self, loading: Loading, *, epoch: int, start: int = 0) -> Iterator[Any]:
        """This process' share of batches `start`, `start` + 1, ... of an epoch: the same whenever it is asked.

        By a batch's `ids` an error names its rows.
        """
        ...

    def backward(self, batch: Any, compute: Compute, accumulation: int = 1) -> Values:
        """Adds the gradients (of processes, the mean is taken afterwards). Returns `loss`, and what else to record.

        Gradients are scaled with `compute.scaler`. `accumulation` is the number of parts to compute the batch in.
        """
        ...

    def after_step(self) -> None:
        """The weights have changed."""
        ...

    def validate(self, model: Any, compute: Compute, loading: Loading) -> dict[str, float]:
        """Metrics of a model like the task's, the same in every process. The model is left in any mode."""
        ...

    def description(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """What a checkpoint with these weights of the model holds besides, so that it can be used by itself."""
        ...

    def export(self, model: Any, folder: Path) -> None:
        """Write this model for use; called once, by the first process."""
        ...
