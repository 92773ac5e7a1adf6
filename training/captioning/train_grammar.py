"""Tune the text tower of a CLIP model to grammar, for a reward: data, model, and the shared loop (`training.fit`)."""

from collections.abc import Callable

import torch

from models.clip.text import TextTransformer
from models.clip.weights import find_weights, load_model
from models.clip_s import PREFIX
from training.captioning.grammar import GrammarLoss, GrammarTask
from training.captioning.grammar_data import GrammarData
from training.distributed import process_group
from training.fit import TrainingPlan, fit
from utils.errors import UserError, check_number, check_text


def train(
    *,
    data: Callable[[], GrammarData],
    model_name: str,
    plan: TrainingPlan,
    prefix: str = PREFIX,
    grammar_weight: float = 1.0,
) -> int:
    """Returns the exit status of `fit`. `model_name` is the model that the image embeddings come from."""
    check_text("clip_prefix", prefix)
    check_number("grammar_weight", grammar_weight, least=0)
    source = data()
    with process_group(plan.device) as group:
        torch.manual_seed(plan.seed)
        model = load_model(find_weights(model_name))
        if not isinstance(model.text, TextTransformer):
            raise UserError(
                f"model_name={model_name}: expected CLIP's text transformer, found {type(model.text).__name__}"
            )
        loss = GrammarLoss(model.text.transformer.width, grammar_weight=grammar_weight)
        task = GrammarTask(model.to(group.device), loss.to(group.device), source, prefix)
        return fit(task, plan, group)
