"""Captions -> numbers in one call, for training loops and notebooks."""

from collections.abc import Mapping, Sequence

from evaluation.captions.bleu import Bleu
from evaluation.captions.caption_set import CaptionMetric, CaptionSet
from evaluation.captions.cider import Cider
from evaluation.captions.diversity import Diversity
from evaluation.captions.rouge import RougeL


def language_metrics() -> dict[str, CaptionMetric]:
    """Those that need nothing but captions and references."""
    return {"bleu": Bleu(), "rouge_l": RougeL(), "cider": Cider(), "diversity": Diversity()}


def score_captions(
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    metrics: Mapping[str, CaptionMetric] | None = None,
) -> dict[str, float]:
    """`bleu_1` .. `bleu_4`, `rouge_l` (0..1), `cider` (0..10) and `diversity`'s shares, or those of `metrics`.

    Both by image id; of `references`, images without a caption are ignored. UserError for captions without references.
    """
    scored = CaptionSet.of(captions, references)
    results = [metric(scored) for metric in (language_metrics() if metrics is None else metrics).values()]
    return {name: value for result in results for name, value in result.metrics.items()}
