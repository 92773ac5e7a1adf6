"""Train a CLIP model: data, model, optimizer, step, eval, save. Read `train` from top to bottom."""

import logging
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from models.clip.model import CLIP
from training.agreement import any_process, share_buffers
from training.checkpoint import BEST, LAST, Run, export, random_state, restore_random_state
from training.distributed import process_group
from training.loading import Loading
from training.loop import Compute, Precision, step, validate
from training.optimization import MovingAverage, Schedule, learning_rates
from training.pairs import Pairs, Source, Splits, View
from training.recompute import recompute_blocks
from training.recording import Recorder
from utils.errors import UserError, check_count

logger = logging.getLogger(__name__)
Evaluator = Callable[[CLIP], Mapping[str, float]]


def train(
    *,
    data: Splits,
    vision: Callable[[], nn.Module],
    text: Callable[[], nn.Module],
    loss: nn.Module,
    optimizer: Callable[[list[tuple[str, nn.Parameter]]], Optimizer],
    schedule: Callable[[Optimizer, int], Schedule],
    output_path: str,
    epochs: int = 32,
    max_steps: int | None = None,
    batch_size: int = 256,
    accumulation: int = 1,
    precision: Precision = "fp32",
    max_norm: float | None = None,
    activation_checkpointing: bool = False,
    compile_towers: bool = False,
    ema_decay: float | None = None,
    evaluators: Sequence[Evaluator] = (),
    save_every_steps: int | None = None,
    device: str = "cuda:0",
    workers: int = 0,
    seed: int = 0,
    resume: bool = True,
) -> int:
    """Returns the exit status: 0 when finished, 128 + its number when a signal stopped it, with `last.pt` saved.

    `batch_size` counts the pairs of one process; `max_steps` ends the run early, the schedule with it. `vision` and
    `text` build the towers once the seed is set. For `accumulation` see `loop.backward`.
    """
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    check_count("accumulation", accumulation)
    folder = Path(output_path)
    with process_group(device) as group, interruptible() as signals:
        # data
        loading = Loading(batch_size, seed, group.rank, group.world, workers)
        steps_per_epoch = data.train.steps_per_epoch(loading)
        total_steps = min(epochs * steps_per_epoch, max_steps or epochs * steps_per_epoch)

        # model
        torch.manual_seed(seed)
        model = build_model(vision, text, data.train).to(group.device)
        if activation_checkpointing:
            recompute_blocks(model)
        if compile_towers:
            model.visual.compile()
            model.text.compile()
        view = View(model.visual.input_resolution, model.visual.resize)  # pyright: ignore[reportArgumentType]
        compute = Compute(group.device, precision)

        # optimizer
        parameters = [*model.named_parameters(), *loss.to(group.device).named_parameters("loss")]
        update = optimizer(parameters)
        rates = schedule(update, total_steps)
        average = MovingAverage(model, ema_decay) if ema_decay else None
        settings = {"seed": seed, "global_batch_size": loading.global_batch_size, "total_steps": total_steps}
        settings |= {"precision": precision, "max_norm": max_norm, "ema_decay": ema_decay}
        run = Run(model, loss, update, rates, compute.scaler, average, settings)
        torch.manual_seed(seed + group.rank)  # dropout differs between processes
        if resume and (folder / LAST).exists():
            run.restore(folder / LAST)
            logger.info("%s: going on after step %d of %d", folder / LAST, run.at.step, total_steps)
        at = run.at

        with Recorder(folder, total_steps, first_step=at.step, batch_size=loading.global_batch_size) as recorder:
            while at.epoch < -(-total_steps // steps_per_epoch):
                # step
                batches = data.train.batches(view, loading, epoch=at.epoch, start=at.batch)
                for batch in islice(batches, total_steps - at.step):
                    with naming_the_batch(run):
                        value, norm = step(
                            model, loss, update, batch, compute, accumulation=accumulation, max_norm=max_norm
                        )
                    rates_used = learning_rates(update)
                    rates.after_step()
                    at.step, at.batch = at.step + 1, at.batch + 1
                    if average:
                        average.update(model, at.step)
                    recorder.step(at.step, value, norm, model.logit_scale, rates_used, batch.unreadable)
                    stop = any_process(bool(signals), group.device)
                    if stop or (save_every_steps and at.step % save_every_steps == 0):
                        run.save(folder)
                    if stop:
                        logger.warning(
                            "stopped after step %d: the same command goes on from %s", at.step, folder / LAST
                        )
                        return 128 + (signals[0] if signals else signal.SIGTERM)

                # eval
                with average.in_place_of(model) if average else nullcontext():
                    metrics = evaluate(model, loss, data.validation, view, compute, batch_size, evaluators)
                rates.after_epoch(metrics["held_out/loss"])
                at.epoch, at.batch = at.epoch + 1, 0
                recorder.epoch(at.step, at.epoch, metrics)

                # save
                improved = metrics["held_out/loss"] < at.best_loss
                at.best_loss = min(at.best_loss, metrics["held_out/loss"])
                run.save(folder, (LAST, BEST) if improved else (LAST,))
        if group.rank == 0:
            with average.in_place_of(model) if average else nullcontext():
                export(model, folder / "model.pt")
    return 0


def build_model(vision: Callable[[], nn.Module], text: Callable[[], nn.Module], source: Source) -> CLIP:
    """With initial (or pretrained) weights, in training mode. A text tower without a vocabulary learns one."""
    model = CLIP(vision(), text())
    if hasattr(model.text, "learn_vocabulary") and not model.text.vocabulary:
        model.text.learn_vocabulary(source.all_captions())  # pyright: ignore[reportCallIssue]
    model.initialize()
    return model.to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]


def evaluate(
    model: CLIP,
    loss: nn.Module,
    validation: Mapping[str, Pairs],
    view: View,
    compute: Compute,
    batch_size: int,
    evaluators: Sequence[Evaluator],
) -> dict[str, float]:
    """Numbers by name; `held_out/loss` is the mean over the held-out parts. Evaluators may add what they like."""
    share_buffers(model)
    metrics: dict[str, float] = {}
    for name, pairs in validation.items():
        found = validate(model, loss, pairs, view, compute, batch_size)
        metrics |= {f"{name}/{key}": value for key, value in found.items()}
    losses = [metrics[f"{name}/loss"] for name in validation]
    metrics["held_out/loss"] = sum(losses) / len(losses)
    random = random_state()
    for evaluator in evaluators:
        metrics |= evaluator(model)
    restore_random_state(random)  # whatever they draw: watching must not change what is watched
    model.train()
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
