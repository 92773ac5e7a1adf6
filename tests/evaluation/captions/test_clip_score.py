"""CLIP-S, RefCLIP-S and retrieval by captions, on features made up for it."""

import numpy as np
import pytest
from PIL import Image

from evaluation.captions.caption_set import CaptionSet, ClipFeatures
from evaluation.captions.clip_score import (
    PREFIX,
    CaptionRetrieval,
    ClipS,
    RefClipS,
    clip_s,
    harmonic_mean,
    prefixed,
    reference_similarity,
)
from evaluation.subject import unit_rows
from tests.helpers.stand_in import stand_in
from utils.errors import UserError

ANGLES = {"right": 0, "near": 30, "far": 60, "across": 90, "behind": 180}


def direction(text: str) -> np.ndarray:
    """By the last word; of any length."""
    angle = np.radians(ANGLES[text.split()[-1]])
    return 7 * np.array([np.cos(angle), np.sin(angle)])


def captions_of(*captions: str, references: list[list[str]] | None = None, text=direction, picture=None) -> CaptionSet:
    """Every image points to the right."""
    subject = stand_in(picture=picture or (lambda image: np.array([3.0, 0])), text=text)
    images = [lambda k=k: Image.new("RGB", (2, 2), (k, 0, 0)) for k in range(len(captions))]
    clip = ClipFeatures(load=lambda: subject, images=images)
    ids = [str(k) for k in range(len(captions))]
    return CaptionSet(ids, list(captions), references or [["right"]] * len(captions), clip)


def test_clip_s_is_the_scaled_cosine_and_never_negative() -> None:
    result = ClipS()(captions_of("right", "near", "across", "behind"))
    expected = [2.5, 2.5 * np.sqrt(0.75), 0, 0]
    assert result.details["per_image"]["clip_s"] == pytest.approx(expected, abs=1e-6)
    assert result.metrics == {"clip_s": pytest.approx(np.mean(expected), abs=1e-6)}


@pytest.mark.parametrize(("reference_scale", "expected"), [(1.0, 2 / (1 / 2.5 + 2)), (2.5, 2 / (1 / 2.5 + 1 / 1.25))])
def test_ref_clip_s_is_the_harmonic_mean_with_the_nearest_reference(reference_scale: float, expected: float) -> None:
    scored = captions_of("right", references=[["behind", "far", "across"]])
    result = RefClipS(reference_scale=reference_scale)(scored)
    assert result.metrics["ref_clip_s"] == pytest.approx(expected, abs=1e-6)


def test_references_of_different_number_stay_with_their_caption() -> None:
    scored = captions_of("right", "right", "right", references=[["far"], ["behind", "right"], ["across"]])
    found = RefClipS()(scored).details["per_image"]["ref_clip_s"]
    assert found == pytest.approx([2 / (1 / 2.5 + 2), 2 / (1 / 2.5 + 1), 0], abs=1e-6)


def test_nothing_alike_is_zero_and_no_division() -> None:
    zeros, ones = np.zeros(3), np.ones(3)
    assert harmonic_mean(zeros, zeros).tolist() == harmonic_mean(zeros, ones).tolist() == [0, 0, 0]
    assert RefClipS()(captions_of("behind", references=[["right"]])).metrics["ref_clip_s"] == 0


def test_features_of_zeros_score_zero() -> None:
    scored = captions_of("x", references=[["y"]], text=lambda text: np.zeros(2))
    assert ClipS()(scored).metrics["clip_s"] == RefClipS()(scored).metrics["ref_clip_s"] == 0


def test_scores_equal_a_loop() -> None:
    rng = np.random.default_rng(0)
    images, captions = (unit_rows(rng.standard_normal((20, 6))) for _ in range(2))
    caption_of = np.sort(rng.integers(0, 20, 90))
    references = unit_rows(rng.standard_normal((90, 6)))
    near = reference_similarity(captions, references, caption_of)
    both = harmonic_mean(clip_s(images, captions), near)
    for k in range(20):
        alone = 2.5 * max(images[k] @ captions[k], 0)
        best = max([captions[k] @ references[j] for j in range(90) if caption_of[j] == k] + [0])
        assert near[k] == pytest.approx(best)
        assert both[k] == pytest.approx(2 * alone * best / (alone + best) if alone and best else 0)


def test_the_prefix_is_added_once_to_captions_and_references_and_not_for_retrieval() -> None:
    seen: list[str] = []

    def record(text: str) -> np.ndarray:
        seen.append(text)
        return np.ones(2)

    scored = captions_of("a cat", "", references=[["a dog", "two dogs"], ["a bird"]], text=record)
    ClipS()(scored)
    assert seen == ["A photo depicts a cat", "A photo depicts "]
    seen.clear()
    RefClipS()(scored)
    assert seen == [PREFIX + text for text in ("a cat", "", "a dog", "two dogs", "a bird")]
    seen.clear()
    ClipS(prefix="This is ")(scored)
    assert seen == ["This is a cat", "This is "]
    seen.clear()
    CaptionRetrieval()(scored)
    assert seen == ["a cat", ""]
    assert prefixed([]) == []


def test_images_are_read_once() -> None:
    reads = []

    def picture(image: Image.Image) -> np.ndarray:
        reads.append(image)
        return np.array([1.0, 0])

    scored = captions_of("right", "near", picture=picture)
    for metric in (ClipS(), RefClipS(), CaptionRetrieval()):
        metric(scored)
    assert len(reads) == 2


def test_retrieval_by_captions() -> None:
    """Image k has direction k; the caption of image 1 is that of image 0."""

    def picture(image: Image.Image) -> np.ndarray:
        return np.eye(12)[image.getpixel((0, 0))[0]]

    captions = ["0", "0", *map(str, range(2, 12))]
    scored = captions_of(*captions, picture=picture, text=lambda text: np.eye(12)[int(text)])
    result = CaptionRetrieval()(scored)
    # Image 1 is no nearer to its caption than the ten others it has nothing to do with, and farther than image 0.
    assert result.details["per_image"]["text_to_image_rank"] == [1, 12] + [1] * 10
    assert result.metrics["text_to_image_r1_percent"] == result.metrics["text_to_image_r10_percent"]
    assert result.metrics["text_to_image_r1_percent"] == pytest.approx(100 * 11 / 12)
    # Image 0 has two captions that fit as well, one of them its own; none fits image 1, all tie.
    assert result.details["per_image"]["image_to_text_rank"] == [2, 12] + [1] * 10
    ways = ("text_to_image", "image_to_text")
    keys = ("r1_percent", "r5_percent", "r10_percent", "r50_percent", "median_rank", "mean_rank")
    assert list(result.metrics) == [f"{way}_{key}" for way in ways for key in keys]
    assert result.metrics["image_to_text_r50_percent"] == 100


def test_captions_that_are_all_the_same_score_chance() -> None:
    """One image is nearest to any caption, and it is the image of one of them. The other way all captions tie."""

    def picture(image: Image.Image) -> np.ndarray:
        angle = np.radians(image.getpixel((0, 0))[0])
        return np.array([np.cos(angle), np.sin(angle)])

    metrics = CaptionRetrieval()(captions_of(*["right"] * 60, picture=picture)).metrics
    assert metrics["text_to_image_r1_percent"] == pytest.approx(100 / 60)
    assert metrics["text_to_image_r50_percent"] == pytest.approx(100 * 50 / 60)
    assert metrics["image_to_text_r50_percent"] == 0
    alike = CaptionRetrieval()(captions_of(*["right"] * 60)).metrics  # and so are their images
    assert alike["text_to_image_r50_percent"] == alike["image_to_text_r50_percent"] == 0


@pytest.mark.parametrize("metric", [ClipS(), RefClipS(), CaptionRetrieval()])
def test_images_are_needed(metric) -> None:
    with pytest.raises(UserError, match="needs the images; expected image_folder"):
        metric(CaptionSet(["1"], ["a"], [["b"]]))
