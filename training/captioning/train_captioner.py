"""Train an image captioner: data, model, objective, and the loop that all training jobs share (`training.fit`)."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch

from evaluation.captions.caption_set import CaptionMetric
from models.captioner.checkpoint import find_captioner, load_captioner
from models.captioner.model import Captioner
from models.captioner.options import Decoding
from pairs.loading import Loading
from store.files import plain
from training.captioning.data import CaptionData
from training.captioning.origin import check_embeddings, described_grids
from training.captioning.rewards import ClipSReward, Reward
from training.captioning.task import CaptionerTask, Objective
from training.distributed import process_group
from training.fit import TrainingPlan, fit
from training.task import Goal
from utils.errors import UserError, check_option

logger = logging.getLogger(__name__)
BEST_METRICS = ("cider", "clip_s", "bleu_4", "rouge_l", "loss")


def train(
    *,
    data: Callable[[], CaptionData],
    captioner: Callable[..., Captioner],
    objective: Objective,
    clip_s: Callable[[], ClipSReward],
    features: Mapping[str, Any],
    plan: TrainingPlan,
    start_from: str | None = None,
    decoding: Decoding | None = None,
    metrics: Mapping[str, CaptionMetric] | None = None,
    best_metric: str = "cider",
) -> int:
    """Returns the exit status of `fit`.

    `captioner` builds the model once the seed is set, from `vocab_size` and `grid_width`; with `start_from`, a
    captioner's checkpoint, its sizes and weights are taken instead. `clip_s` is for the validation.
    """
    check_option("best_metric", best_metric, BEST_METRICS)
    if objective.starts_from_weights and not start_from:
        raise UserError("start_from: expected the captioner of a first phase (last.pt, captioner.pt), found nothing")
    source = data()
    with process_group(plan.device) as device:
        # data
        torch.manual_seed(plan.seed)
        first = next(iter(source.train.in_order(Loading(1))))
        described = described_grids(features, source.grid_settings)

        # model
        if start_from:
            model = continued(start_from, source, described)
        else:
            model = captioner(vocab_size=len(source.vocabulary), grid_width=first.grids.shape[2])
            model.initialize()

        # objective
        objective.prepare(source, device)
        judges: dict[str, Reward] = {f"reward_{name}": reward for name, reward in objective.rewards.items()}
        if first.embeddings is None:
            logger.info("no image embeddings: validation without CLIP-S")
        else:
            judge = judges["clip_s"] = clip_s()
            check_embeddings(judge.model_name, source.embedding_settings, feature_type=judge.feature_type)
            judge.prepare(source.train, device)

        # optimizer, step, eval, save
        goal = Goal(f"held_out/{best_metric}", highest=best_metric != "loss")
        decoding = decoding or Decoding()
        task = CaptionerTask(model.to(device), objective, source, described, decoding, judges, metrics, goal)
        return fit(task, plan, device)


def continued(start_from: str, data: CaptionData, features: Mapping[str, Any]) -> Captioner:
    """Its weights alone: not its optimizer, not its epochs. UserError unless it has the same words and features."""
    path = find_captioner(start_from, key="start_from")
    loaded = load_captioner(path)
    if list(loaded.vocabulary.words) != list(data.vocabulary.words):
        raise UserError(
            f"start_from={path}: a captioner of {len(loaded.vocabulary)} words, the data has {len(data.vocabulary)} "
            "or others; give it the data (labels_path) it was trained on"
        )
    if loaded.features != plain(dict(features)):
        raise UserError(f"start_from={path}: trained on features {loaded.features}, here they are {dict(features)}")
    return loaded.model
