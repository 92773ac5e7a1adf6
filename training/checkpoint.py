"""Checkpoints: everything a run needs to go on as if nothing had happened, written so that a kill never costs one.

Layout: `model` (what one would use; of CLIP under OpenAI's keys), `trained` (the weights as they are trained, where
`model` is their moving average), `loss`, `optimizer`, `schedule`, `scaler`, `rng`, `position`, `step`, `config`, and
what the task adds: of CLIP its `architecture`.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from store.files import atomic_write
from training.distributed import from_all, rank
from training.schedules import Schedule
from training.task import Task
from utils.errors import UserError, first_line
from utils.plain_files import check_plain

LAST, BEST = "last.pt", "best.pt"
_PARTS = {"model", "optimizer", "schedule", "rng", "position"}


@dataclass
class Position:
    """How far a run is: `step` optimizer steps in all; the next batch is number `batch` of epoch `epoch`, from 0."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best_cost: float = float("inf")  # lowest of the validations, see `Goal.cost`


@dataclass
class Run:
    """All that changes while a model is trained, and therefore all that a checkpoint holds."""

    task: Task
    optimizer: Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler  # pyright: ignore[reportPrivateImportUsage]
    average: AveragedModel | None
    settings: dict[str, Any]  # plain values that the course of the run depends on
    at: Position = field(default_factory=Position)

    @property
    def judged(self) -> nn.Module:
        """What is validated, saved and exported: the averaged model where there is one."""
        return self.average.module if self.average else self.task.model

    def save(self, folder: Path, names: tuple[str, ...] = (LAST,)) -> None:
        """By the first process, with the random state of all; every process has to call it."""
        states = from_all(random_state())
        if rank() != 0:
            return
        weights = self.judged.state_dict()
        content = self.task.description(weights) | {
            "model": weights,
            "trained": self.task.model.state_dict() if self.average else None,
            "loss": self.task.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": states,
            "position": asdict(self.at),
            "step": self.at.step,
            "config": self.settings,
        }
        for name in names:
            save(folder / name, content)

    def restore(self, path: Path) -> None:
        """Go on where the checkpoint was written. UserError if it is of a run with other settings."""
        content = load(path)
        old = content.get("config")
        old = old if isinstance(old, dict) else {}
        changed = [
            f"{key} was {old.get(key)!r}, is {new!r}" for key, new in self.settings.items() if old.get(key) != new
        ]
        if changed:
            raise UserError(
                f"{path}: a run with other settings: {'; '.join(changed)}. Give them as they were to go on with it; "
                "another output_path or resume=false starts anew"
            )
        try:
            self.task.model.load_state_dict(content["trained"] or content["model"])
            if self.average:
                self.average.module.load_state_dict(content["model"])
                self.average.n_averaged.fill_(1 + content["step"])
            self.task.loss.load_state_dict(content["loss"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.at = Position(**content["position"])
            self.schedule.load_state_dict(content["schedule"])
            self.scaler.load_state_dict(content["scaler"])
            restore_random_state(content["rng"][rank()])
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise UserError(f"{path}: of another model, optimizer or version ({first_line(error)})") from error


def save(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all; `path` keeps its old content until then."""
    with atomic_write(path) as file:
        torch.save(content, file)


def load(path: Path) -> dict[str, Any]:
    """UserError if it is no checkpoint of a training run. Tensors and plain values only are unpickled."""
    try:
        check_plain(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling finds wrong with a file
        raise UserError(f"{path}: not a readable checkpoint ({first_line(error)})") from error
    missing = _PARTS - set(content if isinstance(content, dict) else ())
    if missing:
        raise UserError(f"{path}: cannot be resumed, it lacks {', '.join(sorted(missing))}; a plain state dict perhaps")
    return content


def random_state() -> dict[str, Tensor]:
    """Of the generators a model draws from (dropout). Data has its own: a function of seed, epoch and batch."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
