"""Retrieval both ways: find the picture of a caption, find a caption of the picture.

Recall at 1, 5 and 10, median and mean rank, and rsum (the six recalls together), as in Karpathy & Fei-Fei 2015.
An image's rank is that of its best caption. Ties count against the model: if all features are alike it scores 0.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Float, Int64
from matplotlib.axes import Axes

from evaluation.clip.zero_shot import TIE
from evaluation.result import Result
from evaluation.subject import Subject, unit_rows
from pairs.captioned_images import CaptionedImages

LEVELS = (1, 5, 10)
_ROWS = 1000  # of the similarity matrix at a time: 5,000 images with 25,000 captions would take half a GB


class Retrieval:
    """Among all the images of `pairs` and all their captions."""

    def __init__(self, *, pairs: CaptionedImages) -> None:
        self.pairs = pairs

    def __call__(self, subject: Subject) -> Result:
        images = unit_rows(subject.images(self.pairs.images, title="retrieval"))
        texts = unit_rows(subject.texts([caption for captions in self.pairs.captions for caption in captions]))
        image_of = np.repeat(np.arange(len(images)), [len(captions) for captions in self.pairs.captions])
        ranks = {
            "image_to_text": image_to_text_ranks(images, texts, image_of),
            "text_to_image": text_to_image_ranks(images, texts, image_of),
        }
        metrics = {f"{way}_{key}": value for way in ranks for key, value in rank_metrics(ranks[way]).items()}
        metrics["rsum"] = sum(value for key, value in metrics.items() if key.endswith("_percent"))
        return Result(
            data={**self.pairs.data, "num_images": len(images), "num_captions": len(texts)},
            metrics=metrics,
            plots={"recall": partial(plot_recall, ranks=ranks)},
        )


def text_to_image_ranks(
    images: Float[np.ndarray, "n e"], texts: Float[np.ndarray, "m e"], image_of: Int64[np.ndarray, " m"]
) -> Int64[np.ndarray, " m"]:
    """For every text, 1 + the number of other images at least as near as its own. Rows of length 1."""
    return _ranks(texts, images, image_of, np.arange(len(images)))


def image_to_text_ranks(
    images: Float[np.ndarray, "n e"], texts: Float[np.ndarray, "m e"], image_of: Int64[np.ndarray, " m"]
) -> Int64[np.ndarray, " n"]:
    """For every image, 1 + the number of other images' texts at least as near as the best of its own."""
    return _ranks(images, texts, np.arange(len(images)), image_of)


def _ranks(
    queries: np.ndarray, found: np.ndarray, of_query: np.ndarray, of_found: np.ndarray
) -> Int64[np.ndarray, " queries"]:
    """A query's own are those of the same number (`of_query`, `of_found`)."""
    ranks = [np.empty(0, dtype=np.int64)]
    for start in range(0, len(queries), _ROWS):
        cosines = queries[start : start + _ROWS] @ found.T
        own = of_query[start : start + _ROWS, None] == of_found
        best = np.where(own, cosines, -np.inf).max(axis=1, keepdims=True)
        ranks.append(1 + ((cosines >= best - TIE) & ~own).sum(axis=1))
    return np.concatenate(ranks)


def rank_metrics(ranks: Int64[np.ndarray, " n"], levels: Sequence[int] = LEVELS) -> dict[str, float]:
    """`r1_percent`, `r5_percent`, `r10_percent`, `median_rank`, `mean_rank`; ranks count from 1."""
    recalls = {f"r{level}_percent": 100 * float((ranks <= level).mean()) for level in levels}
    return recalls | {"median_rank": float(np.median(ranks)), "mean_rank": float(ranks.mean())}


def plot_recall(axes: Axes, *, ranks: dict[str, np.ndarray]) -> None:
    for way, found in ranks.items():
        levels = np.arange(1, max(found.max(), 2) + 1)
        axes.plot(levels, 100 * np.searchsorted(np.sort(found), levels, side="right") / len(found), label=way)
    axes.set(xscale="log", xlabel="K", ylabel="recall at K, percent", ylim=(0, 102), title="retrieval")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
