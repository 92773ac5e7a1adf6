"""Correlations against scipy, file formats against the real files, and what models without a clue get."""

import numpy as np
import pytest
from scipy import stats

from evaluation.clip.sts import TextSimilarity, pearson, spearman
from evaluation.clip.sts_files import SIX, read_sts
from tests.helpers.shared_data import SHARED
from tests.helpers.stand_in import bag_of_words, random_features, stand_in
from utils.errors import UserError

STS = SHARED / "data" / "brmson__dataset-sts"
PARTLY = ("STS12_without_MSRvid", *SIX[1:], "STS-B", "mean_of_six_without_MSRvid")
STSB = SHARED / "data" / "PhilipMay__stsb-multi-mt" / "stsb-en-test.csv"


@pytest.mark.parametrize("levels", [2, 6, 50, 10**6])
@pytest.mark.parametrize("seed", range(5))
def test_correlations_equal_scipy_with_ties(levels, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, levels, 300).astype(float)
    y = np.round(x + rng.standard_normal(300) * levels, 1)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-12)
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y)[0], abs=1e-12)


def test_by_hand():
    assert spearman(np.array([1.0, 2, 3]), np.array([10.0, 20, 1000])) == pytest.approx(1)
    assert spearman(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    assert spearman(np.array([1.0, 1, 2]), np.array([1.0, 2, 3])) == pytest.approx(0.75**0.5)


def test_what_does_not_vary_correlates_with_nothing():
    assert spearman(np.full(5, 0.3), np.arange(5.0)) == pearson(np.full(5, 0.3), np.arange(5.0)) == 0


@pytest.fixture
def folder(tmp_path):
    """Two sub-corpora of 2015, one row without a score, quotes that are text."""
    year = tmp_path / "semeval-sts" / "2015"
    year.mkdir(parents=True)
    (year / "a.test.tsv").write_text('5.00\t"A cat.\tA cat.\n\tno\tscore\n0.5\tA DOG \ta boat\n')
    (year / "b.test.tsv").write_text("2\tone\ttwo\textra\n")
    return tmp_path


def test_rows_without_a_score_are_left_out_and_a_year_is_pooled(folder):
    (task,) = read_sts(str(folder), None)
    assert task.name == "STS15"
    assert task.scores.tolist() == [5.0, 0.5, 2.0]
    assert task.first == ['"a cat.', "a dog", "one"]
    assert task.second == ["a cat.", "a boat", "two"]


def test_mean_of_six_only_where_all_six_are(folder):
    assert "mean_of_six_spearman" not in TextSimilarity(sts_path=str(folder))(stand_in(text=bag_of_words)).metrics


@pytest.mark.parametrize("whole", [True, False])
def test_a_mean_without_msrvid_says_so(folder, whole):
    (folder / "sick2014").mkdir()
    pairs = "pair_ID\tA\tB\tscore\tjudgment\n1\ta cat\ta cat\t5\t-\n2\ta cat\ta dog\t1\t-\n"
    (folder / "sick2014/SICK_test_annotated.txt").write_text(pairs)
    for year in ("2012", "2013", "2014", "2016"):
        file = folder / "semeval-sts" / year / f"{'MSRvid' if whole else 'MSRpar'}.test.tsv"
        file.parent.mkdir()
        file.write_text("5\ta cat\ta cat\n1\ta cat\ta dog\n")
    metrics = TextSimilarity(sts_path=str(folder))(stand_in(text=bag_of_words)).metrics
    without = "" if whole else "_without_MSRvid"
    names = [f"STS12{without}", *SIX[1:], f"mean_of_six{without}"]
    assert list(metrics) == [*(f"{name}_spearman" for name in names), f"mean_of_six{without}_pearson"]


def test_errors_say_what_to_do(folder, tmp_path):
    with pytest.raises(UserError, match="no scored pairs"):
        read_sts(None, None)
    with pytest.raises(UserError, match="no such folder"):
        read_sts(str(tmp_path / "absent"), None)
    (folder / "semeval-sts" / "2015" / "b.test.tsv").write_text("high\tone\ttwo\n")
    with pytest.raises(UserError, match=r"b\.test\.tsv"):
        read_sts(str(folder), None)
    (tmp_path / "stsb.csv").write_text("one,two\n")
    with pytest.raises(UserError, match="stsb_path"):
        read_sts(None, str(tmp_path / "stsb.csv"))


@pytest.mark.shared
def test_numbers_of_pairs_are_those_published():
    found = {task.name + task.note: len(task.scores) for task in read_sts(str(STS), str(STSB))}
    assert found == {
        "STS12 without MSRvid": 2358,
        "STS13": 1500,
        "STS14": 3750,
        "STS15": 3000,
        "STS16": 1186,
        "SICK-R": 4927,
        "STS-B": 1379,
    }


@pytest.mark.shared
def test_random_features_correlate_with_nothing():
    """A fresh vector for every sentence: equal sentences must not be alike either."""
    rng = np.random.default_rng(0)
    result = TextSimilarity(sts_path=str(STS), stsb_path=str(STSB))(stand_in(text=lambda text: rng.standard_normal(64)))
    for name in PARTLY:
        assert abs(result.metrics[f"{name}_spearman"]) < 0.05, name


@pytest.mark.shared
def test_bag_of_words_correlates_with_everything():
    result = TextSimilarity(sts_path=str(STS), stsb_path=str(STSB))(stand_in(text=bag_of_words))
    for name in PARTLY:
        assert result.metrics[f"{name}_spearman"] > 0.3, name


@pytest.mark.shared
def test_a_collapsed_model_scores_nothing():
    noise = np.random.default_rng(0)
    result = TextSimilarity(sts_path=str(STS))(stand_in(text=lambda text: 1 + 1e-9 * noise.standard_normal(8)))
    assert set(result.metrics.values()) == {0.0}


def test_equal_texts_have_equal_random_features():
    assert np.array_equal(random_features("a"), random_features("a"))
