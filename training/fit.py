"""The one loop of all training jobs: data, optimizer, step, eval, save. What is trained is a `training.task.Task`."""

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from pairs.loading import Loading
from training.checkpoint import BEST, LAST, Run, random_state, restore_random_state
from training.compute import Compute, Precision
from training.distributed import ProcessGroup, any_process, share_buffers
from training.optimization import learning_rates, moving_average
from training.recording import Recorder
from training.schedules import Schedule
from training.step import named_parameters, step
from training.task import Task
from utils.errors import UserError, check_count, check_flags, check_number

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How long, how precisely and where anything is trained. The same keys in the config of every training job.

    `batch_size` counts the images of one process; `max_steps` ends the run early, the schedule with it.
    """

    output_path: str
    optimizer: Callable[[list[tuple[str, nn.Parameter]]], Optimizer]
    schedule: Callable[[Optimizer, int], Schedule]
    epochs: int = 32
    max_steps: int | None = None
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
        for key in ("epochs", "batch_size", "accumulation"):
            check_count(key, getattr(self, key))
        for key in ("max_steps", "save_every_steps"):
            if getattr(self, key) is not None:
                check_count(key, getattr(self, key))
        if self.max_norm is not None:
            check_number("max_norm", self.max_norm, least=0)
        if self.ema_decay is not None:
            check_number("ema_decay", self.ema_decay, least=0, most=1)
        check_count("workers", self.workers, least=0)
        check_count("seed", self.seed, least=0)
        check_flags(resume=self.resume)

    def total_steps(self, steps_per_epoch: int) -> int:
        whole = self.epochs * steps_per_epoch
        return min(whole, self.max_steps or whole)


def fit(task: Task, plan: TrainingPlan, group: ProcessGroup) -> int:
    """Returns the exit status: 0 when finished, 128 + its number when a signal stopped it, with `last.pt` saved."""
    folder = Path(plan.output_path)
    compute = Compute(group.device, plan.precision)

    # data
    loading = Loading(plan.batch_size, plan.seed, group.rank, group.world, plan.workers)
    steps_per_epoch = task.steps_per_epoch(loading)
    total_steps = plan.total_steps(steps_per_epoch)

    # optimizer
    run = begin(task, plan, compute, loading, total_steps)
    at = run.at
    recorder = Recorder(folder, total_steps, first_step=at.step, batch_size=loading.global_batch_size)
    with interruptible() as signals, recorder:
        while at.epoch < -(-total_steps // steps_per_epoch):
            # step
            batches = task.batches(loading, epoch=at.epoch, start=at.batch)
            for batch in islice(batches, total_steps - at.step):
                with naming_the_batch(run):
                    values = step(
                        task, run.optimizer, batch, compute, accumulation=plan.accumulation, max_norm=plan.max_norm
                    )
                rates = learning_rates(run.optimizer)
                if isinstance(run.schedule, LambdaLR):
                    run.schedule.step()
                at.step, at.batch = at.step + 1, at.batch + 1
                if run.average:
                    run.average.update_parameters(task.model)
                recorder.step(at.step, values, rates)
                stop = any_process(bool(signals), group.device)
                if stop or (plan.save_every_steps and at.step % plan.save_every_steps == 0):
                    run.save(folder)
                if stop:
                    logger.warning("stopped after step %d: the same command goes on from %s", at.step, folder / LAST)
                    return 128 + (signals[0] if signals else signal.SIGTERM)

            # eval
            metrics = watch(run, compute, loading)
            cost = task.goal.cost(metrics)
            if isinstance(run.schedule, ReduceLROnPlateau):
                run.schedule.step(cost)
            at.epoch, at.batch = at.epoch + 1, 0
            recorder.epoch(at.step, at.epoch, metrics)

            # save
            improved, at.best_cost = cost < at.best_cost, min(cost, at.best_cost)
            run.save(folder, (LAST, BEST) if improved else (LAST,))
    if group.rank == 0:
        task.export(run.judged, folder)
    return 0


def begin(task: Task, plan: TrainingPlan, compute: Compute, loading: Loading, total_steps: int) -> Run:
    """A run at its first step, or where `last.pt` left off."""
    task.model.train()
    optimizer = plan.optimizer(named_parameters(task))
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
    metrics = run.task.validate(run.judged, compute, loading)
    restore_random_state(random)
    run.task.model.train()
    return metrics


@contextmanager
def naming_the_batch(run: Run) -> Iterator[None]:
    """A loss that is not a number is told with the step and the batch it came from."""
    try:
        yield
    except UserError as error:
        at = run.at
        raise UserError(f"step {at.step + 1} (batch {at.batch + 1} of epoch {at.epoch + 1}): {error}") from error


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM put their number into the list, and the loop stops after its step; a second one kills."""
    received: list[int] = []

    def note(number: int, _frame: Any) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
