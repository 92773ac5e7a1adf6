"""Alignment, uniformity and effective rank by hand and by loops."""

import math

import numpy as np
import pytest

from evaluation.clip.geometry import Geometry, effective_rank, uniformity
from evaluation.subject import unit_rows
from pairs.captioned_images import scene_images
from tests.helpers.stand_in import random_features, stand_in


def test_uniformity_equals_a_loop():
    rows = unit_rows(np.random.default_rng(0).standard_normal((20, 5)))
    terms = [math.exp(-2 * ((rows[i] - rows[j]) ** 2).sum()) for i in range(20) for j in range(i)]
    assert uniformity(rows) == pytest.approx(math.log(sum(terms) / len(terms)))


def test_collapse_and_spread():
    assert uniformity(np.tile([1.0, 0], (10, 1))) == pytest.approx(0)
    assert effective_rank(np.tile([1.0, 0], (10, 1))) == pytest.approx(1)
    assert effective_rank(np.eye(7)) == pytest.approx(7)
    assert effective_rank(np.zeros((3, 4))) == 0
    assert uniformity(np.array([[1.0, 0], [-1.0, 0]])) == pytest.approx(-8)  # opposite: |x - y|^2 = 4


def test_effective_rank_by_hand():
    """Singular values 3 and 1: shares 0.75 and 0.25."""
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(np.diag([3.0, 1.0])) == pytest.approx(math.exp(entropy))


def test_geometry_of_a_collapsed_and_of_a_random_model():
    pairs = scene_images(num_scenes=30)
    collapsed = Geometry(pairs=pairs)(stand_in()).metrics
    assert collapsed["alignment_mean_cosine"] == pytest.approx(1)
    assert collapsed["effective_rank_images"] == pytest.approx(1)
    assert collapsed["gap_between_means"] == pytest.approx(0)
    spread = Geometry(pairs=pairs)(stand_in(picture=lambda p: random_features(str(p.tobytes())), text=random_features))
    assert abs(spread.metrics["alignment_mean_cosine"]) < 0.1
    assert spread.metrics["effective_rank_texts"] > 20
