"""The job behind `--config-name caption_evaluate`: anybody's captions, all metrics, one table."""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from evaluation.captions import java_metrics
from evaluation.captions.caption_files import References, find_images, read_predictions, read_references
from evaluation.captions.caption_report import CaptionReport
from evaluation.captions.caption_set import CaptionMetric, CaptionSet
from evaluation.captions.clip_features import ClipFeatures
from evaluation.report import typed_command
from evaluation.result import Result
from evaluation.subject import Subject
from models.load import ModelChoice
from store.provenance import software
from utils.errors import UserError, check_flags, given_path, some

logger = logging.getLogger(__name__)


def caption_evaluate(
    *,
    caption_metric: Mapping[str, CaptionMetric],
    predictions: str | None,
    references: str | None,
    split: str | None = None,
    only_predicted: bool = True,
    image_folder: str | None = None,
    output_path: str | Path = "./output/caption_evaluation",
    model: ModelChoice,
    batch_size: int = 64,
) -> int:
    """Score the captions and write json and table; exit status 0, or 1 if a metric could not be computed.

    `model` is loaded only where a metric looks at images.
    """
    if not caption_metric:
        raise UserError("caption_metric=[]: expected bleu, rouge_l, cider, ... or a list of them")
    check_flags(only_predicted=only_predicted)
    given = read_predictions(given_path("predictions", predictions, "a json file, [{image_id, caption}]"))
    known = read_references(given_path("references", references, "COCO's or Karpathy's json"), split=split)
    captions = paired(given, known, only_predicted=only_predicted)
    if image_folder:
        images = find_images(known, captions.image_ids, Path(image_folder).expanduser())
        judge = partial(Subject.load, model, batch_size=batch_size)
        captions = replace(captions, clip=ClipFeatures(load=judge, images=images))

    results, left_out, seconds = _measure(caption_metric, captions)
    counts = {
        "num_images": len(captions.image_ids),
        "num_references": sum(map(len, captions.references)),
        "without_prediction": [image_id for image_id in known.captions if image_id not in given],
        "without_words": [i for i, words in zip(captions.image_ids, captions.words, strict=True) if not words],
    }
    _log(counts, captions.clip, only_predicted)
    files = {"predictions": predictions, "references": references, "split": split, "only_predicted": only_predicted}
    looked = {"image_folder": image_folder, "model": captions.clip.facts} if captions.clip else {}
    reasons = left_out | {name: _why_not(name) for name in java_metrics.NAMES if name not in caption_metric}
    report = CaptionReport(captions, results, reasons, files | counts | looked, seconds, typed_command(), software())
    written = report.write(Path(output_path).expanduser())
    print(report.table())
    logger.info("written: %s", ", ".join(map(str, written)))
    return 1 if left_out else 0


def paired(given: Mapping[str, str], known: References, *, only_predicted: bool) -> CaptionSet:
    """Each caption with its references; without `only_predicted`, images without a caption count as an empty one.

    UserError for captions whose image has no references.
    """
    unknown = [image_id for image_id in given if image_id not in known.captions]
    if unknown:
        raise UserError(
            f"predictions: {len(unknown)} of {len(given)} images have no references: {some(unknown)}; "
            f"ids of the references are like {some(list(known.captions)[:2])} (is `split` the right one?)"
        )
    captions = given if only_predicted else {image_id: given.get(image_id, "") for image_id in known.captions}
    return CaptionSet.of(captions, known.captions)


def _measure(
    metrics: Mapping[str, CaptionMetric], captions: CaptionSet
) -> tuple[dict[str, Result], dict[str, str], dict[str, float]]:
    """Results, reasons why there is none, and how long it took, by metric."""
    results, left_out, seconds = {}, {}, {}
    for name, metric in metrics.items():
        logger.info("%s ...", name)
        started = time.monotonic()
        result = metric(captions)
        seconds[name] = time.monotonic() - started
        if "left_out" in result.data:
            left_out[name] = result.data["left_out"]
        else:
            results[name] = result
    return results, left_out, seconds


def _why_not(name: str) -> str:
    return java_metrics.missing(name) or f"not asked for: add {name} to caption_metric"


def _log(counts: Mapping[str, Any], clip: ClipFeatures | None, only_predicted: bool) -> None:
    without, empty = counts["without_prediction"], counts["without_words"]
    if without:
        fate = "left out" if only_predicted else "scored as empty"
        logger.warning("%d images have no prediction and are %s: %s", len(without), fate, some(without))
    if empty:
        logger.warning("%d captions have no words: %s", len(empty), some(empty))
    if clip and not clip.facts:
        logger.warning("image_folder: no metric looked at the images; add clip_s, ref_clip_s or retrieval")
