"""Which image is meant? Find it among all of them by its caption alone (text-to-image, no prefix)."""

import numpy as np

from evaluation.captions.caption_set import CaptionSet
from evaluation.clip.retrieval import rank_metrics, text_to_image_ranks
from evaluation.result import Result


class CaptionRetrieval:
    """Recall at 1, 5 and 10. Ties count against the caption: captions that are all the same find nothing."""

    def __call__(self, captions: CaptionSet) -> Result:
        clip = captions.need_clip("retrieval")
        ranks = text_to_image_ranks(clip.images, clip.texts(captions.captions), np.arange(len(captions.captions)))
        return Result(
            data={"num_candidates": len(ranks)},
            metrics={f"text_to_image_{key}": value for key, value in rank_metrics(ranks).items()},
            details={"per_image": {"text_to_image_rank": ranks.tolist()}},
        )
