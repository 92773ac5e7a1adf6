"""The captioner's job: stopped and resumed, from one phase to the next, and what each run leaves behind."""

import signal
from pathlib import Path

import pytest
import torch

from models.captioner.checkpoint import load_captioner
from models.captioner.options import Decoding
from pairs.loading import Loading
from tests.helpers.captioner_runs import arguments, first_phase, self_critical
from tests.helpers.toy_captions import COLOURS, FEATURES, SHAPES, fresh_captioner, toy_data
from tests.helpers.training_runs import assert_same, log, state, stop_after
from training.captioning.mle import Likelihood
from training.captioning.task import CaptionerTask
from training.captioning.train_captioner import train
from training.checkpoint import load
from training.compute import Compute
from utils.errors import UserError


@pytest.fixture(scope="module")
def mle(tmp_path_factory) -> Path:
    return first_phase(tmp_path_factory.mktemp("mle"))


@pytest.mark.parametrize("phase", ["mle", "scst"])
def test_resumed_run_equals_the_uninterrupted_one_to_the_bit(tmp_path, monkeypatch, mle, phase):
    """Dropout and samples are drawn as if nothing had happened."""
    changed = {"epochs": 3, "ema_decay": 0.9}
    if phase == "scst":
        changed |= {"objective": self_critical(), "start_from": str(mle)}
    assert train(**arguments(tmp_path / "whole", **changed)) == 0
    stop_after(monkeypatch, 3)
    assert train(**arguments(tmp_path / "parts", **changed)) == 128 + signal.SIGTERM
    assert load(tmp_path / "parts/last.pt")["step"] == 3
    monkeypatch.undo()
    assert train(**arguments(tmp_path / "parts", **changed)) == 0
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))
    assert_same(torch.load(tmp_path / "parts/captioner.pt"), torch.load(tmp_path / "whole/captioner.pt"))


def test_validation_measures_words_and_images(mle):
    line = log(mle.parent)[-1]
    for key in ("loss", "bleu_4", "cider", "rouge_l", "repeated_bigram_share", "clip_s"):
        assert line[f"held_out/{key}"] >= 0
    assert line["held_out/clip_s"] == pytest.approx(line["held_out/mean_length_words"], abs=0.01)
    assert line["held_out/loss"] < log(mle.parent)[0]["held_out/loss"]


def test_validation_is_without_dropout():
    data = toy_data()
    model = fresh_captioner(data, dropout=0.5)
    task = CaptionerTask(model, Likelihood(), data, FEATURES, Decoding(max_words=8))
    first, second = (task.validate(model.train(), Compute(torch.device("cpu")), Loading(4)) for _ in range(2))
    assert first == second


def test_best_is_the_epoch_with_the_highest_cider(mle):
    ciders = [line["held_out/cider"] for line in log(mle.parent)]
    best = load(mle.parent / "best.pt")
    assert best["position"]["epoch"] == 1 + ciders.index(max(ciders))
    assert -best["position"]["best_cost"] == pytest.approx(max(ciders), abs=1e-4)


@pytest.mark.parametrize("name", ["last.pt", "best.pt", "captioner.pt"])
def test_every_file_is_a_captioner(mle, name):
    loaded = load_captioner(mle.parent / name)
    assert loaded.vocabulary.words == toy_data().vocabulary.words
    assert loaded.features == FEATURES
    weights = load(mle)["model"]["output.weight"]
    if name != "best.pt":
        torch.testing.assert_close(loaded.model.output.weight.detach(), weights, atol=1e-3, rtol=1e-2)


def test_checkpoints_hold_the_weights_once(mle):
    """Those of the captioner, and Adam's two moments."""
    weights = sum(4 * value.numel() for value in load(mle)["model"].values())
    assert mle.stat().st_size < 3.5 * weights + 100_000


def test_second_phase_takes_weights_and_nothing_else(tmp_path, mle):
    """Epochs count from 0, the optimizer is fresh; the reward rises."""
    objective = self_critical()
    assert train(**arguments(tmp_path, objective=objective, start_from=str(mle), epochs=12, batch_size=12)) == 0
    assert [line["epoch"] for line in log(tmp_path)] == list(range(1, 13))
    content = load(tmp_path / "last.pt")
    assert content["config"]["reward"] == {"says": 1.0}
    assert content["optimizer"]["state"][0]["step"] == 12
    words = content["words"]
    model = load_captioner(tmp_path / "captioner.pt").model
    before = load_captioner(mle).model
    star = 1 + words.index("star")
    assert model.output.bias[star] > before.output.bias[star] + 0.01


def test_what_does_not_fit_is_answered_in_one_line(tmp_path, mle):
    scst = {"objective": self_critical()}
    for changed, message in (
        (scst, "start_from: expected the captioner of a first phase"),
        (scst | {"start_from": "nowhere.pt"}, "start_from=nowhere.pt: neither"),
        (scst | {"start_from": str(mle), "features": FEATURES | {"resolution": 128}}, "trained on features"),
        ({"best_metric": "ciderr"}, "best_metric=ciderr: did you mean cider"),
        ({"decoding": Decoding(max_words=20)}, "max_words=20"),
    ):
        with pytest.raises(UserError, match=message):
            train(**arguments(tmp_path, **changed))
    other = toy_data()
    other = type(other)(other.train, other.validation, type(other.vocabulary)(["other", "words"]))
    with pytest.raises(UserError, match=r"a captioner of .* words, the data has 2"):
        train(**arguments(tmp_path, **scst, start_from=str(mle), data=lambda: other))


@pytest.mark.parametrize("changed", [{"best_metric": "ciderr"}, {"objective": self_critical()}])
def test_data_is_read_when_all_else_is_known_to_be_right(tmp_path, changed):
    with pytest.raises(UserError, match=r"best_metric|start_from"):
        train(**arguments(tmp_path, **changed, data=lambda: pytest.fail("data was read")))


def test_a_phase_is_not_resumed_by_another(tmp_path, mle):
    train(**arguments(tmp_path, epochs=1))
    with pytest.raises(UserError, match="objective was 'likelihood', is 'self-critical'"):
        train(**arguments(tmp_path, epochs=1, objective=self_critical(), start_from=str(mle)))


def test_toy_images_are_all_different():
    batch = next(toy_data().train.batches(Loading(12), epoch=0))
    assert len(batch) == len(COLOURS) * len(SHAPES)
    assert len({tuple(grid.flatten().tolist()) for grid in batch.grids}) == 12
