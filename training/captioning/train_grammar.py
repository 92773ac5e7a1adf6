"""Tune the text tower of a CLIP model to grammar, for a reward: data, model, and the shared loop (`training.fit`)."""

from collections.abc import Callable

import torch

from models.clip_s import PREFIX
from training.captioning.data import CaptionData
from training.captioning.grammar import GrammarLoss, GrammarTask
from training.captioning.grammar_data import GrammarData
from training.captioning.reward_text import text_model
from training.distributed import process_group
from training.fit import TrainingPlan, fit
from utils.errors import check_number, check_text


def train(
    *,
    data: Callable[[], CaptionData],
    model_name: str,
    plan: TrainingPlan,
    prefix: str = PREFIX,
    grammar_weight: float = 1.0,
) -> int:
    """Returns the exit status of `fit`. `model_name` is the model that the image embeddings come from."""
    check_text("clip_prefix", prefix)
    check_number("grammar_weight", grammar_weight, least=0)
    source = GrammarData.of(data())
    with process_group(plan.device) as device:
        torch.manual_seed(plan.seed)
        model = text_model(model_name)
        loss = GrammarLoss(model.text.pooled_dim, grammar_weight=grammar_weight)
        task = GrammarTask(model.to(device), loss.to(device), source, prefix)
        return fit(task, plan, device)
