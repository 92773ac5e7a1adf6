"""The one loop of all training jobs: data, optimizer, step, eval, save. What is trained is a `training.task.Task`."""

import logging
import math
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from pairs.loading import Loading, whole_batches
from training.checkpoint import BEST, LAST, Run, random_state, restore_random_state
from training.compute import Compute, Precision
from training.distributed import average_gradients, rank, share_buffers, sum_of_all, world_size
from training.optimization import learning_rates, moving_average
from training.recording import Recorder
from training.schedules import Schedule
from training.task import Task, Values
from utils.errors import UserError, check_count, check_flags, check_number
from utils.signals import Stopped, exit_status, noted

logger = logging.getLogger(__name__)

_LEFT_OFF = "left off after step %d of %d (stop_after_steps): with a larger number, or without, the run goes on"
_STOPPED = "stopped after step %d: the same command goes on from %s"


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How long, how precisely and where anything is trained. The same keys in the config of every training job.

    `batch_size` counts the images of one process. `max_steps` ends the run early, the schedule with it;
    `stop_after_steps` leaves off in the middle of the schedule, from where a later run can go on.
    """

    output_path: str
    optimizer: Callable[[list[tuple[str, nn.Parameter]]], Optimizer]
    schedule: Callable[[Optimizer, int], Schedule]
    epochs: int = 32
    max_steps: int | None = None
    stop_after_steps: int | None = None
    batch_size: int = 256
    accumulation: int = 1
    precision: Precision = "fp32"
    max_norm: float | None = None
    ema_decay: float | None = None
    save_every_steps: int | None = None
    device: str = "cuda:0"
    workers: int = 0
    seed: int = 0
    resume: bool = True

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 1, "accumulation": 1, "workers": 0, "seed": 0}
        optional = ("max_steps", "stop_after_steps", "save_every_steps")
        least |= {key: 1 for key in optional if getattr(self, key) is not None}
        for key, number in least.items():
            check_count(key, getattr(self, key), least=number)
        if self.max_norm is not None:
            check_number("max_norm", self.max_norm, least=0)
        if self.ema_decay is not None:
            check_number("ema_decay", self.ema_decay, least=0, most=1)
        check_flags(resume=self.resume)


def fit(task: Task, plan: TrainingPlan, device: torch.device) -> int:
    """Returns the exit status: 0 when finished, 128 + its number when a signal stopped it, with `last.pt` saved."""
    folder = Path(plan.output_path)
    compute = Compute(device, plan.precision)

    # data
    loading = Loading(plan.batch_size, plan.seed, rank(), world_size(), plan.workers)
    steps_per_epoch = whole_batches(len(task.data.train), loading)
    total_steps = min(plan.epochs * steps_per_epoch, plan.max_steps or sys.maxsize)
    last_step = min(total_steps, plan.stop_after_steps or sys.maxsize)

    # optimizer
    run = begin(task, plan, compute, loading, total_steps)
    at = run.at
    recorder = Recorder(folder, last_step, first_step=at.step, batch_size=loading.global_batch_size)
    with noted() as signals, recorder:
        while at.epoch < -(-total_steps // steps_per_epoch):
            # step
            batches = task.batches(loading, epoch=at.epoch, start=at.batch)
            for batch in islice(_while_served(batches, signals), max(0, last_step - at.step)):
                where = f"step {at.step + 1} (batch {at.batch + 1} of epoch {at.epoch + 1})"
                values = step(task, run.optimizer, batch, compute, plan.accumulation, plan.max_norm, where)
                rates = learning_rates(run.optimizer)
                if isinstance(run.schedule, LambdaLR):
                    run.schedule.step()
                at.step, at.batch = at.step + 1, at.batch + 1
                if run.average:
                    run.average.update_parameters(task.model)
                recorder.step(at.step, values, rates)
                # A signal may reach the processes at different steps.
                stop = bool(sum_of_all(torch.tensor(len(signals), device=device)))
                if stop or (plan.save_every_steps and at.step % plan.save_every_steps == 0):
                    run.save(folder)
                if stop:
                    logger.warning(_STOPPED, at.step, folder / LAST)
                    return 128 + (signals[0] if signals else signal.SIGTERM)

            if at.step >= last_step < total_steps and at.batch < steps_per_epoch:  # an epoch that is over is validated
                run.save(folder)
                logger.info(_LEFT_OFF, at.step, total_steps)
                break

            # eval
            try:
                if signals and world_size() == 1:  # after the last step, or workers ended before it
                    raise Stopped(signals[0])
                with signals.raised() if world_size() == 1 else nullcontext():  # it can take long, and is done again
                    metrics = watch(run, compute, loading)
            except KeyboardInterrupt as stop:
                run.save(folder)
                logger.warning(_STOPPED, at.step, folder / LAST)
                return exit_status(stop)
            cost = task.goal.cost(metrics)
            if isinstance(run.schedule, ReduceLROnPlateau):
                run.schedule.step(cost)
            at.epoch, at.batch = at.epoch + 1, 0
            recorder.epoch(at.step, at.epoch, metrics)

            # save
            improved, at.best_cost = cost < at.best_cost, min(cost, at.best_cost)
            # Last the one that says that the epoch is over: killed in between, a run does it again, and both are there.
            run.save(folder, (BEST, LAST) if improved else (LAST,))
    if rank() == 0:
        task.export(run.judged, folder)
    return 0


def _while_served(batches: Iterable[Any], signals: list[int]) -> Iterator[Any]:
    """A batch system tells all processes to end: workers do at once, which is no error of theirs."""
    try:
        yield from batches
    except RuntimeError:
        if not signals or world_size() > 1:
            raise


def begin(task: Task, plan: TrainingPlan, compute: Compute, loading: Loading, total_steps: int) -> Run:
    """A run at its first step, or where `last.pt` left off."""
    task.model.train()
    optimizer = plan.optimizer([*task.model.named_parameters(), *task.loss.named_parameters("loss")])
    average = moving_average(task.model, plan.ema_decay) if plan.ema_decay else None
    settings = {"seed": plan.seed, "global_batch_size": loading.global_batch_size, "total_steps": total_steps}
    settings |= {"precision": plan.precision, "max_norm": plan.max_norm, "ema_decay": plan.ema_decay} | task.settings
    run = Run(task, optimizer, plan.schedule(optimizer, total_steps), compute.scaler, average, settings)
    torch.manual_seed(plan.seed + loading.rank)  # dropout differs between processes
    last = Path(plan.output_path) / LAST
    if plan.resume and last.exists():
        run.restore(last)
        logger.info("%s: going on after step %d of %d", last, run.at.step, total_steps)
    return run


def watch(run: Run, compute: Compute, loading: Loading) -> dict[str, float]:
    """Metrics by name. Watching must not change what is watched: whatever it draws, training does not notice."""
    for model in dict.fromkeys((run.task.model, run.judged)):  # in the same order everywhere
        share_buffers(model)
    random = random_state()
    try:
        return run.task.validate(run.judged, compute, loading)
    finally:
        restore_random_state(random)
        run.task.model.train()


def step(
    task: Task,
    optimizer: Optimizer,
    batch: Any,
    compute: Compute,
    accumulation: int = 1,
    max_norm: float | None = None,
    where: str = "step",
) -> Values:
    """One update; returns what there is to record. UserError before the weights change if a number is not finite."""
    optimizer.zero_grad(set_to_none=True)
    try:
        values = task.backward(batch, compute, accumulation)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{where}: the device's memory does not hold the batch: lower batch_size or raise accumulation and start "
            "again; the weights were not changed"
        ) from error
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    average_gradients(parameters)
    compute.scaler.unscale_(optimizer)
    norm = float(nn.utils.clip_grad_norm_(parameters, max_norm or math.inf))
    # In fp16 a gradient that overflows is part of the method: the scaler leaves that step out and scales less.
    overflow = compute.scaler.is_enabled() and compute.scaler.get_scale() > 1
    if not math.isfinite(values["loss"]) or not (math.isfinite(norm) or overflow):
        ids = np.asarray(batch.ids).tolist()
        shown = ", ".join(map(str, ids[:64])) + (f", ... ({len(ids)} in all)" if len(ids) > 64 else "")
        raise UserError(
            f"{where}: the loss is {values['loss']}, the norm of its gradient {norm}; the weights were not changed. "
            f"Lower the learning rate, set max_norm or look at the data; image ids of the batch: {shown}"
        )
    compute.scaler.step(optimizer)
    compute.scaler.update()
    task.after_step()
    return values | {"gradient_norm": norm}
