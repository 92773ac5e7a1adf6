"""How the features lie on the sphere: near where they should be, spread out otherwise, or collapsed?

Alignment and uniformity: Wang & Isola 2020 (uniformity with t = 2; alignment here as the mean cosine of the pairs).
Effective rank: Roy & Vetterli 2007, exp of the entropy of the singular values. Gap: Liang et al. 2022, the distance
between the means of images and texts.
"""

from functools import partial

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from evaluation.result import Result
from evaluation.subject import Subject, unit_rows
from pairs.captioned_images import CaptionedImages

MAX_ROWS = 5000  # beyond that the first ones stand for all: these figures need all pairs of rows


class Geometry:
    """Of the images of `pairs` and the first caption of each."""

    def __init__(self, *, pairs: CaptionedImages) -> None:
        self.pairs = pairs

    def __call__(self, subject: Subject) -> Result:
        images = unit_rows(subject.images(self.pairs.images[:MAX_ROWS], title="geometry").astype(np.float64))
        texts = unit_rows(subject.texts([each[0] for each in self.pairs.captions[:MAX_ROWS]]).astype(np.float64))
        matched = (images * texts).sum(axis=1)
        others = (images * np.roll(texts, 1, axis=0)).sum(axis=1)
        return Result(
            data={**self.pairs.data, "num_images": len(images)},
            metrics={
                "alignment_mean_cosine": float(matched.mean()),
                "mean_cosine_of_others": float(others.mean()),
                "uniformity_images": uniformity(images),
                "uniformity_texts": uniformity(texts),
                "effective_rank_images": effective_rank(images),
                "effective_rank_texts": effective_rank(texts),
                "gap_between_means": float(np.linalg.norm(images.mean(axis=0) - texts.mean(axis=0))),
            },
            details={"feature_width": images.shape[1]},
            plots={"cosines": partial(plot_cosines, matched=matched, others=others)},
        )


def uniformity(rows: Float[np.ndarray, "n e"], t: float = 2.0) -> float:
    """log of the mean of exp(-t |x - y|^2) over all pairs of two rows of length 1; 0 is collapse, lower is better."""
    if len(rows) < 2:
        return 0.0
    square_distances = np.maximum(2 - 2 * rows @ rows.T, 0)[np.triu_indices(len(rows), k=1)]
    return float(np.log(np.exp(-t * square_distances).mean()))


def effective_rank(rows: Float[np.ndarray, "n e"]) -> float:
    """1 (all rows alike) to min(n, e) (all directions used alike); 0 if all rows are zero."""
    values = np.linalg.svd(rows, compute_uv=False)
    if not values.any():
        return 0.0
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def plot_cosines(axes: Axes, *, matched: np.ndarray, others: np.ndarray) -> None:
    bins = np.linspace(min(matched.min(), others.min()) - 0.01, max(matched.max(), others.max()) + 0.01, 50).tolist()
    axes.hist(others, bins=bins, alpha=0.6, label="of another picture", color="#999999")
    axes.hist(matched, bins=bins, alpha=0.6, label="its own", color="#4472a8")
    axes.set(xlabel="cosine of image and caption", ylabel="pairs", title="geometry")
    axes.legend()
