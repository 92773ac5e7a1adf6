"""Train an image captioner: data, model, objective, and the loop that all training jobs share (`training.fit`)."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch

from evaluation.captions.caption_set import CaptionMetric
from models.captioner.checkpoint import LoadedCaptioner, find_captioner, load_captioner
from models.captioner.model import Captioner
from models.captioner.options import Decoding
from models.clip.weights import weights_sha256
from pairs.loading import Loading
from store.plain_json import plain
from training.captioning.data import CaptionData
from training.captioning.rewards import ClipSReward, Reward
from training.captioning.task import CaptionerTask, Objective
from training.captioning.validation import CaptionValidation
from training.distributed import process_group
from training.fit import Plan, fit
from training.task import Goal
from utils.errors import UserError, check_option

logger = logging.getLogger(__name__)
USUAL = {"grid_pool": 1, "convert_rgb": "after_resize"}  # of grids that are not described further
BEST_METRICS = ("cider", "clip_s", "bleu_4", "rouge_l", "loss")


def train(
    *,
    data: CaptionData,
    captioner: Callable[..., Captioner],
    objective: Objective,
    clip_s: Callable[[], ClipSReward],
    features: Mapping[str, Any],
    plan: Plan,
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
    with process_group(plan.device) as group:
        torch.manual_seed(plan.seed)
        first = next(iter(data.train.in_order(Loading(1))))
        described = as_noted(with_weights(features), data.grid_settings)
        if start_from:
            model = continued(start_from, data, described)
        elif objective.starts_from_weights:
            raise UserError(
                "start_from: expected the captioner of a first phase (last.pt, captioner.pt), found nothing"
            )
        else:
            model = captioner(vocab_size=len(data.vocabulary), grid_width=first.grids.shape[2])
            model.initialize()
        objective.prepare(data, group.device)
        judges: dict[str, Reward] = {f"reward_{name}": reward for name, reward in objective.rewards.items()}
        if first.embeddings is None:
            logger.info("no image embeddings: validation without CLIP-S")
        else:
            judge = clip_s()
            check_embeddings(judge.model_name, data.embedding_settings)
            judge.prepare(data.train, group.device)
            judges["clip_s"] = judge
        validation = CaptionValidation(data.validation, data.vocabulary, decoding or Decoding(), judges, metrics)
        goal = Goal(f"held_out/{best_metric}", highest=best_metric != "loss")
        task = CaptionerTask(model.to(group.device), objective, data, validation, described, goal)
        return fit(task, plan, group)


def continued(start_from: str, data: CaptionData, features: Mapping[str, Any]) -> Captioner:
    """Its weights alone: not its optimizer, not its epochs. UserError unless it has the same words and features."""
    path = find_captioner(start_from, key="start_from")
    loaded: LoadedCaptioner = load_captioner(path)
    if list(loaded.vocabulary.words) != list(data.vocabulary.words):
        raise UserError(
            f"start_from={path}: a captioner of {len(loaded.vocabulary)} words, the data has {len(data.vocabulary)} "
            "or others; give it the data (labels_path) it was trained on"
        )
    if loaded.features != plain(dict(features)):
        raise UserError(f"start_from={path}: trained on features {loaded.features}, here they are {dict(features)}")
    return loaded.model


def as_noted(features: Mapping[str, Any], noted: Mapping[str, Any]) -> dict[str, Any]:
    """The description of the grids, with what the extractor noted about their pixels. Captions would look at others.

    UserError where model or resolution are not those that were noted.
    """
    if "weights_sha256" not in noted:
        return dict(features)
    found = (noted["weights_sha256"], noted["resolution_px"])
    if found != (features["weights_sha256"], features["resolution"]):
        raise UserError(
            f"grid_model={features['model_name']} grid_resolution={features['resolution']}: the grids are those of "
            f"{noted['model_name']} (SHA-256 {noted['weights_sha256']:.8} ...) at {noted['resolution_px']} pixels, as "
            "their files say; give grid_model and grid_resolution so"
        )
    seen = {"grid_pool": noted["grid"]["pool"], "convert_rgb": noted["convert_rgb"]}
    unusual = {key: value for key, value in seen.items() if value != USUAL[key]}
    return dict(features) | {"resize": noted["resize"]} | unusual


def check_embeddings(model_name: str, noted: Mapping[str, Any]) -> None:
    """UserError where the embeddings were noted to be another model's: their products with its texts mean nothing."""
    found = noted.get("weights_sha256")
    if found and found != weights_sha256(model_name):
        raise UserError(
            f"reward_model={model_name}: the embeddings are of {noted.get('model_name')} (SHA-256 {found:.8} ...) "
            "as their files say; give reward_model so, or the embeddings of this model as embeddings_path"
        )


def with_weights(features: Mapping[str, Any]) -> dict[str, Any]:
    """The description of the grids with the SHA-256 of the weights they come from, unless it is given."""
    if features.get("weights_sha256"):
        return dict(features)
    return dict(features) | {"weights_sha256": weights_sha256(str(features["model_name"]))}
