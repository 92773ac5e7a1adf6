"""The job behind `--config-name caption_evaluate`: anybody's captions, all metrics, one table."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from evaluation.captions import java_metrics
from evaluation.captions.caption_files import References, find_images, read_predictions, read_references
from evaluation.captions.caption_set import CaptionMetric, CaptionSet, ClipFeatures
from evaluation.captions.finecapeval import read_note_references
from evaluation.report import origin, write_report
from evaluation.result import Result, measured
from evaluation.subject import Subject
from models.load import ModelChoice
from utils.errors import UserError, check_flags, given_path, some

logger = logging.getLogger(__name__)


def caption_evaluate(
    *,
    caption_metric: Mapping[str, CaptionMetric],
    predictions: str | None,
    references: str | None,
    split: str | None = None,
    only_predicted: bool = True,
    only_matching: bool = False,
    finecapeval: str | None = None,
    image_folder: str | None = None,
    output_path: str | Path = "./output/caption_evaluation",
    model: ModelChoice,
    batch_size: int = 64,
) -> int:
    """Score the captions and write json and table; exit status 0, or 1 if a metric could not be computed.

    `model` is loaded only where a metric looks at images. Without `references`, those of `finecapeval` are taken.
    """
    if not caption_metric:
        raise UserError("caption_metric=[]: expected bleu, rouge_l, cider, ... or a list of them")
    check_flags(only_predicted=only_predicted, only_matching=only_matching)
    given = read_predictions(given_path("predictions", predictions, "a json file, [{image_id, caption}]"))
    if references is None and finecapeval and not split:  # it has none
        references, known = finecapeval, read_note_references(given_path("finecapeval", finecapeval, "FineCapEval.csv"))
    else:
        file = given_path("references", references, "COCO's or Karpathy's json")
        known = read_references(file, split=split, asked=given)
    captions = paired(given, known, only_predicted=only_predicted, only_matching=only_matching)
    if image_folder:
        images = find_images(known, captions.image_ids, Path(image_folder).expanduser())
        judge = partial(Subject.load, model, batch_size=batch_size)
        captions = replace(captions, clip=ClipFeatures(load=judge, images=images))

    results = measured(caption_metric, captions)
    counts = {
        "num_images": len(captions.image_ids),
        "num_references": sum(map(len, captions.references)),
        "without_prediction": [image_id for image_id in known.captions if image_id not in given],
        "without_references": [image_id for image_id in given if image_id not in known.captions],
        "without_words": [i for i, words in zip(captions.image_ids, captions.words, strict=True) if not words],
    }
    _log(counts, captions.clip, only_predicted)
    files = {"predictions": predictions, "references": references, "split": split}
    flags = {"only_predicted": only_predicted, "only_matching": only_matching}
    looked = {"image_folder": image_folder, "model": captions.clip.facts} if captions.clip else {}
    return _write(Path(output_path).expanduser(), captions, results, files | flags | counts | looked)


def paired(
    given: Mapping[str, str], known: References, *, only_predicted: bool, only_matching: bool = False
) -> CaptionSet:
    """Each caption with its references; without `only_predicted`, images without a caption count as an empty one.

    UserError for captions whose image has no references, unless `only_matching` leaves them out, and where all are.
    """
    unknown = [image_id for image_id in given if image_id not in known.captions]
    if unknown and not (only_matching and len(unknown) < len(given)):
        rest = len(given) - len(unknown)
        raise UserError(
            f"predictions: {len(unknown)} of {len(given)} images have no references: {some(unknown)}; "
            f"ids of the references are like {some(list(known.captions)[:2])} (is `split` the right one?)"
            + (f"; only_matching=true scores the other {rest}" if rest else "")
        )
    captions = {image_id: caption for image_id, caption in given.items() if image_id in known.captions}
    if not only_predicted:
        captions = {image_id: given.get(image_id, "") for image_id in known.captions}
    return CaptionSet.of(captions, known.captions)


def _write(folder: Path, captions: CaptionSet, results: Mapping[str, Result], data: Mapping[str, Any]) -> int:
    failed = {name: result.left_out for name, result in results.items() if result.left_out}
    scored = {name: result for name, result in results.items() if name not in failed}
    left_out = failed | {name: java_metrics.why_not(name) for name in java_metrics.NAMES if name not in results}
    write_report(
        folder,
        "metrics.json",
        _content(captions, scored, left_out, data),
        title="Evaluation of captions",
        sections={
            "Data": [f"- {key}: `{_short(value)}`" for key, value in data.items()],
            "Settings": [f"- {name}: `{result.data}`" for name, result in scored.items() if result.data],
        },
        results=scored,
        left_out=left_out,
    )
    return 1 if failed else 0


def _content(
    captions: CaptionSet, results: Mapping[str, Result], left_out: Mapping[str, str], data: Mapping[str, Any]
) -> dict[str, Any]:
    """Metrics at the top, `bleu` as a list of BLEU-1 to BLEU-4; then how they came about; `per_image` by id."""
    metrics: dict[str, Any] = {name: value for each in results.values() for name, value in each.metrics.items()}
    if "bleu_1" in metrics:
        metrics = {"bleu": [metrics.pop(f"bleu_{order}") for order in (1, 2, 3, 4)]} | metrics
    details = {name: dict(result.details) for name, result in results.items()}
    columns = {name: values for each in details.values() for name, values in each.pop("per_image", {}).items()}
    return {
        **metrics,
        "left_out": left_out,
        "data": data,
        "settings": {name: result.data for name, result in results.items()},
        "details": details,
        "seconds": {name: result.seconds for name, result in results.items()},
        **origin(),
        "per_image": {
            image_id: {"caption": captions.captions[k]} | {name: values[k] for name, values in columns.items()}
            for k, image_id in enumerate(captions.image_ids)
        },
    }


def _log(counts: Mapping[str, Any], clip: ClipFeatures | None, only_predicted: bool) -> None:
    without, others, empty = (counts[f"without_{what}"] for what in ("prediction", "references", "words"))
    if others:
        logger.warning(
            "%d predictions have no references and are left out, %d are scored; left out: %s",
            *(len(others), counts["num_images"], some(others)),
        )
    if without:
        fate = "left out" if only_predicted else "scored as empty"
        logger.warning("%d images have no prediction and are %s: %s", len(without), fate, some(without))
    if empty:
        logger.warning("%d captions have no words: %s", len(empty), some(empty))
    if clip and not clip.facts:
        logger.warning("image_folder: no metric looked at the images; add clip_s, ref_clip_s or retrieval")


def _short(value: Any) -> Any:
    """Of a long list its length and first elements; metrics.json has all of it."""
    return f"{len(value)}: {some(value)}" if isinstance(value, list) and len(value) > 5 else value
