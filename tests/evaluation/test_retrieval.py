"""Ranks against loops, small cases by hand, and models that must not score."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from evaluation.clip.retrieval import Retrieval, image_to_text_ranks, rank_metrics, text_to_image_ranks
from evaluation.subject import unit_rows
from pairs.captioned_images import CaptionedImages, csv_images, karpathy_images, scene_images
from tests.helpers.shared_data import SHARED
from tests.helpers.stand_in import random_features, stand_in
from utils.errors import UserError


def naive_ranks(images, texts, image_of):
    """Of each text its image, of each image its best text; one comparison at a time."""
    of_text, of_image = [], []
    for text, own in zip(texts, image_of, strict=True):
        of_text.append(1 + sum(text @ other >= text @ images[own] for k, other in enumerate(images) if k != own))
    for k, image in enumerate(images):
        best = max(image @ text for text, own in zip(texts, image_of, strict=True) if own == k)
        of_image.append(1 + sum(image @ text >= best for text, own in zip(texts, image_of, strict=True) if own != k))
    return of_image, of_text


@pytest.mark.parametrize("counts", [[1] * 30, [5] * 20, [1, 3, 2, 5, 1, 4]])
def test_ranks_equal_a_loop(counts, monkeypatch):
    monkeypatch.setattr("evaluation.clip.retrieval._ROWS", 7)  # several parts
    rng = np.random.default_rng(0)
    image_of = np.repeat(np.arange(len(counts)), counts)
    images = unit_rows(rng.standard_normal((len(counts), 6)))
    texts = unit_rows(images[image_of] + rng.standard_normal((len(image_of), 6)))
    of_image, of_text = naive_ranks(images, texts, image_of)
    assert image_to_text_ranks(images, texts, image_of).tolist() == of_image
    assert text_to_image_ranks(images, texts, image_of).tolist() == of_text


def test_by_hand():
    """Two texts of image 0, one of image 1; image 1's text is nearer to image 0."""
    images = np.array([[1.0, 0], [0, 1.0]])
    texts = np.array([[0.6, 0.8], [1.0, 0], [0.8, 0.6]])
    image_of = np.array([0, 0, 1])
    assert text_to_image_ranks(images, texts, image_of).tolist() == [2, 1, 2]
    assert image_to_text_ranks(images, texts, image_of).tolist() == [1, 2]
    assert rank_metrics(np.array([1, 2, 6, 11])) == {
        "r1_percent": 25.0,
        "r5_percent": 50.0,
        "r10_percent": 75.0,
        "median_rank": 4.0,
        "mean_rank": 5.0,
    }


def test_a_collapsed_model_scores_nothing():
    result = Retrieval(pairs=scene_images(num_scenes=40, captions_per_image=5))(stand_in())
    assert result.metrics["rsum"] == 0
    assert result.metrics["text_to_image_mean_rank"] == 40
    assert result.metrics["image_to_text_mean_rank"] == 40 * 5 - 5 + 1


def test_almost_collapsed_features_score_nothing_either():
    """Differences of rounding are ties, whatever their order."""
    noise = np.random.default_rng(0)
    subject = stand_in(
        picture=lambda picture: 1 + 1e-8 * noise.standard_normal(4),
        text=lambda text: 1 + 1e-8 * noise.standard_normal(4),
    )
    assert Retrieval(pairs=scene_images(num_scenes=30))(subject).metrics["rsum"] == 0


def test_zero_features_score_nothing():
    subject = stand_in(picture=lambda picture: np.zeros(64), text=random_features)
    assert Retrieval(pairs=scene_images(num_scenes=30))(subject).metrics["rsum"] == 0


def test_a_perfect_model_scores_everything():
    pairs = scene_images(num_scenes=30, captions_per_image=5)
    names = {
        np.array(image()).tobytes(): captions[0] for image, captions in zip(pairs.images, pairs.captions, strict=True)
    }
    first = {caption: captions[0] for captions in pairs.captions for caption in captions}
    subject = stand_in(
        picture=lambda picture: random_features(names[np.array(picture).tobytes()]),
        text=lambda text: random_features(first[text]),
    )
    metrics = Retrieval(pairs=pairs)(subject).metrics
    assert metrics["rsum"] == 600
    assert metrics["image_to_text_median_rank"] == metrics["text_to_image_median_rank"] == 1


def test_scenes_have_different_captions():
    pairs = scene_images(num_scenes=200)
    assert len({caption for captions in pairs.captions for caption in captions}) == 200


@pytest.fixture
def folder(tmp_path):
    for k in range(3):
        Image.new("RGB", (8, 8), (k * 50, 0, 0)).save(tmp_path / f"{k}.png")
    return tmp_path


def test_csv_rows_of_one_image_belong_together(folder):
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["image", "caption", "id"], ["1.png", "a, b", 1], ["0.png", "c", 0], ["1.png", "d", 1]]
        )
    pairs = csv_images(captions_path=str(folder / "captions.csv"), image_folder=str(folder))
    assert pairs.captions == [["a, b", "d"], ["c"]]
    assert np.array(pairs.images[0]())[0, 0, 0] == 50


def test_karpathy_split(folder):
    entries = [
        {"filename": f"{k}.png", "filepath": "val2014", "split": split, "sentences": [{"raw": f"text {k}"}]}
        for k, split in enumerate(["train", "test", "test"])
    ]
    path = folder / "dataset.json"
    path.write_text(json.dumps({"images": entries}))
    assert karpathy_images(captions_path=str(path), image_folder=str(folder)).captions == [["text 1"], ["text 2"]]
    assert len(karpathy_images(captions_path=str(path), image_folder=str(folder), split=None).images) == 3
    with pytest.raises(UserError, match=r"split=dev: no such images .* test, train"):
        karpathy_images(captions_path=str(path), image_folder=str(folder), split="dev")


def test_csv_files_may_tell_splits(folder):
    path = folder / "captions.csv"
    path.write_text("image,caption,split\n0.png,a,test\n1.png,b,val\n0.png,c,\n")
    assert csv_images(captions_path=str(path), image_folder=str(folder)).captions == [["a", "c"]]
    assert csv_images(captions_path=str(path), image_folder=str(folder), split=None).captions == [["a", "c"], ["b"]]
    with pytest.raises(UserError, match=r"split=dev: no such images .* test, val; split=null takes all"):
        csv_images(captions_path=str(path), image_folder=str(folder), split="dev")


def test_errors_say_what_to_do(folder):
    path = folder / "captions.csv"
    path.write_text("image,caption,id\nmissing.png,text,0\n")
    with pytest.raises(UserError, match=r"missing.png"):
        csv_images(captions_path=str(path), image_folder=str(folder))
    path.write_text("picture,text\n0.png,text\n")
    with pytest.raises(UserError, match="expected a csv file with image,caption in its header line"):
        csv_images(captions_path=str(path), image_folder=str(folder))
    with pytest.raises(UserError, match="captions_path: expected"):
        karpathy_images(captions_path=None, image_folder=str(folder))
    with pytest.raises(ValueError, match="none may be empty"):
        CaptionedImages([lambda: Image.new("RGB", (1, 1))], [[]], {})


@pytest.mark.shared
def test_real_karpathy_file_and_csv_agree():
    root = SHARED / "data" / "coco_captions_subset"
    from_csv = csv_images(captions_path=str(root / "captions.csv"), image_folder=str(root / "images"))
    from_json = karpathy_images(
        captions_path=str(root / "dataset_coco_subset.json"), image_folder=str(root), split=None
    )
    assert len(from_csv.images) == len(from_json.images) == 111
    assert sum(map(len, from_csv.captions)) == sum(map(len, from_json.captions))
