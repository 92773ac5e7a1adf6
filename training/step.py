"""One step of the optimizer, for any task: clipped, and never with numbers that are none."""

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from training import distributed
from training.compute import Compute
from training.task import Task, Values
from utils.errors import UserError


def named_parameters(task: Task) -> list[tuple[str, nn.Parameter]]:
    """All that is trained: the model's weights, and the loss's behind them."""
    return [*task.model.named_parameters(), *task.loss.named_parameters("loss")]


def step(
    task: Task,
    optimizer: Optimizer,
    batch: Any,
    compute: Compute,
    *,
    accumulation: int = 1,
    max_norm: float | None = None,
) -> Values:
    """One update; returns what there is to record. UserError before the weights change if a number is not finite."""
    optimizer.zero_grad(set_to_none=True)
    values = task.backward(batch, compute, accumulation)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    distributed.average_gradients(parameters)
    compute.scaler.unscale_(optimizer)
    norm = float(nn.utils.clip_grad_norm_(parameters, max_norm or math.inf))
    # In fp16 a gradient that overflows is part of the method: the scaler leaves that step out and scales less.
    overflow = compute.scaler.is_enabled() and compute.scaler.get_scale() > 1
    if not math.isfinite(values["loss"]) or not (math.isfinite(norm) or overflow):
        raise UserError(
            f"the loss is {values['loss']}, the norm of its gradient {norm}; the weights were not changed. Lower the "
            f"learning rate, set max_norm or look at the data; image ids of the batch: {_some(task.ids(batch))}"
        )
    compute.scaler.step(optimizer)
    compute.scaler.update()
    task.after_step()
    return values | {"gradient_norm": norm}


def rescale_gradients(parameters: Iterable[Tensor], factor: float) -> None:
    """For a loss whose divisor is only known once its gradient is there."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)


def _some(ids: Any) -> str:
    shown = ", ".join(map(str, ids[:64]))
    return f"{shown}, ... ({len(ids)} in all)" if len(ids) > 64 else shown
