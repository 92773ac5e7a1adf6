"""Metrics that look at the images: CLIP-S and RefCLIP-S (Hessel et al. 2021), and retrieval of images by captions.

How near is a caption to its image, and to its references besides? Which image is meant, among all of them?

The paper's numbers are those of ViT-B/32. RefCLIP-S follows jmhessel/clipscore, where 2.5 is on the side of the image
only; code built on CLIP-S has it on both (`reference_scale=2.5`).
"""

import numpy as np
from jaxtyping import Float, Int64

from evaluation.captions.caption_set import CaptionSet
from evaluation.clip.retrieval import image_to_text_ranks, rank_metrics, text_to_image_ranks
from evaluation.result import Result
from models.clip_s import PREFIX, clip_s, prefixed
from utils.errors import check_number, check_text

LEVELS = (1, 5, 10, 50)  # of recall; those of Cho et al. 2022


class ClipS:
    """Mean over the images."""

    def __init__(self, *, prefix: str = PREFIX) -> None:
        check_text("clip_prefix", prefix)
        self.prefix = prefix

    def __call__(self, captions: CaptionSet) -> Result:
        clip = captions.need_clip("clip_s")
        values = clip_s(clip.images, clip.texts(prefixed(captions.captions, self.prefix)))
        return _result("clip_s", values, self.prefix)


class RefClipS:
    """Mean over the images."""

    def __init__(self, *, prefix: str = PREFIX, reference_scale: float = 1.0) -> None:
        check_text("clip_prefix", prefix)
        check_number("reference_scale", reference_scale, least=0)
        self.prefix = prefix
        self.reference_scale = reference_scale

    def __call__(self, captions: CaptionSet) -> Result:
        clip = captions.need_clip("ref_clip_s")
        texts = clip.texts(prefixed(captions.captions, self.prefix))
        all_references = [reference for references in captions.references for reference in references]
        near = reference_similarity(
            texts,
            clip.texts(prefixed(all_references, self.prefix)),
            np.repeat(np.arange(len(texts)), [len(references) for references in captions.references]),
        )
        return _result(
            "ref_clip_s", harmonic_mean(clip_s(clip.images, texts), self.reference_scale * near), self.prefix
        )


class CaptionRetrieval:
    """Both ways, without prefix: the image of a caption among all images, the caption of an image among all captions.

    Ties count against the captions. Those that are all the same score chance at finding their images, which still
    differ (recall at 1 of n images: 1/n), and nothing the other way, where they tie.
    """

    def __call__(self, captions: CaptionSet) -> Result:
        clip = captions.need_clip("retrieval")
        texts, own = clip.texts(captions.captions), np.arange(len(captions.captions))
        ranks = {
            "text_to_image": text_to_image_ranks(clip.images, texts, own),
            "image_to_text": image_to_text_ranks(clip.images, texts, own),
        }
        metrics = {f"{way}_{key}": value for way in ranks for key, value in rank_metrics(ranks[way], LEVELS).items()}
        return Result(
            data={"num_candidates": len(own)},
            metrics=metrics,
            details={"per_image": {f"{way}_rank": found.tolist() for way, found in ranks.items()}},
        )


def reference_similarity(
    captions: Float[np.ndarray, "n e"], references: Float[np.ndarray, "m e"], caption_of: Int64[np.ndarray, " m"]
) -> Float[np.ndarray, " n"]:
    """For each caption max(cos, 0) of the nearest of its references: reference j belongs to `caption_of[j]`."""
    nearest = np.zeros(len(captions), dtype=captions.dtype)
    np.maximum.at(nearest, caption_of, (captions[caption_of] * references).sum(axis=1))
    return nearest


def harmonic_mean(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Of values from 0; 0 where either is 0."""
    product, total = 2 * a * b, a + b
    return np.divide(product, total, out=np.zeros_like(product), where=total > 0)


def _result(name: str, values: Float[np.ndarray, " n"], prefix: str) -> Result:
    return Result(
        data={"prefix": prefix},
        metrics={name: float(values.mean())},
        details={"per_image": {name: values.astype(float).tolist()}},
    )
