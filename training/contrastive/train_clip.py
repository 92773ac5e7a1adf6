"""Train a CLIP model: data, model, and the loop that all training jobs share (`training.fit`)."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

from models.clip.model import CLIP, CLIPImageTower, CLIPTextTower
from pairs.batches import PairSource, PairSplits
from training.contrastive.task import ContrastiveTask, Evaluator
from training.distributed import process_group
from training.fit import TrainingPlan, fit
from training.recompute import recompute_blocks
from utils.errors import UserError, first_line

T = TypeVar("T")


def train(
    *,
    data: PairSplits,
    vision: Callable[[], CLIPImageTower],
    text: Callable[[], CLIPTextTower],
    loss: nn.Module,
    plan: TrainingPlan,
    activation_checkpointing: bool = False,
    compile_towers: bool = False,
    evaluators: Sequence[Evaluator] = (),
) -> int:
    """Returns the exit status of `fit`. `vision` and `text` build the towers once the seed is set.

    For the plan's `accumulation` see `contrastive.backward`.
    """
    with process_group(plan.device) as device:
        torch.manual_seed(plan.seed)
        model = build_model(vision, text, data.train).to(device)
        if activation_checkpointing:
            recompute_blocks(model)
        if compile_towers:
            model.visual.compile()
            model.text.compile()
        return fit(ContrastiveTask(model, loss.to(device), data, evaluators), plan, device)


def build_model(vision: Callable[[], CLIPImageTower], text: Callable[[], CLIPTextTower], source: PairSource) -> CLIP:
    """With initial (or pretrained) weights. A text tower without a vocabulary learns one."""
    model = CLIP(_built("vision", vision), _built("text", text))
    learn = getattr(model.text, "learn_vocabulary", None)  # only towers that can be without one have it
    if learn is not None and not getattr(model.text, "vocabulary", None):
        learn(source.all_captions())
    model.initialize()
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _built(name: str, build: Callable[[], T]) -> T:
    """UserError for sizes that make no tower."""
    try:
        return build()
    except UserError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
        given = ", ".join(f"{name}.{key}={value}" for key, value in getattr(build, "keywords", {}).items())
        raise UserError(f"{name}: no tower of {given or 'these sizes'}: {first_line(error)}") from error
