"""The captioner's job: stopped and resumed, from one phase to the next, with several processes, and through Hydra."""

import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra.utils import call

from models.captioner import Decoding, load_captioner
from pairs.loading import Loading
from tests.helpers.configs import composed
from tests.helpers.toy_captions import COLOURS, FEATURES, SHAPES, Says, toy_captioner, toy_data, toy_plan
from tests.training.test_train_clip import assert_same, log, state, stop_after
from training.captioning.mle import Likelihood
from training.captioning.rewards import RewardSum
from training.captioning.scst import SelfCritical
from training.captioning.train_captioner import as_noted, check_embeddings, train, with_weights
from training.checkpoint import load
from utils.command_line import CONFIGS
from utils.errors import UserError


class FakeClipS:
    """As many points as words."""

    model_name = "tiny"

    def prepare(self, source, device) -> None:
        pass

    def __call__(self, images, captions):
        return torch.tensor([float(len(caption.split())) for caption in captions])


def self_critical(word: str = "star", **changed) -> SelfCritical:
    reward = RewardSum(rewards={"says": Says(word)}, weights={"says": 1.0})
    return SelfCritical(reward=reward, max_words=8, samples_per_image=2, **changed)


def arguments(folder: Path, **changed) -> dict:
    of_plan = {
        "epochs",
        "batch_size",
        "resume",
        "seed",
        "ema_decay",
        "max_steps",
        "accumulation",
        "precision",
        "optimizer",
    }
    planned = {key: value for key, value in changed.items() if key in of_plan}
    own = {key: value for key, value in changed.items() if key not in of_plan}
    defaults = {
        "data": toy_data(),
        "captioner": partial(toy_captioner, dropout=0.2),
        "objective": Likelihood(),
        "clip_s": FakeClipS,
        "features": FEATURES,
        "decoding": Decoding(max_words=8),
    }
    return defaults | own | {"plan": toy_plan(folder, **planned)}


@pytest.fixture(scope="module")
def mle(tmp_path_factory) -> Path:
    """A captioner of the first phase that knows its images a little."""
    folder = tmp_path_factory.mktemp("mle")
    assert train(**arguments(folder, epochs=8)) == 0
    return folder / "last.pt"


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
        train(**arguments(tmp_path, **scst, start_from=str(mle), data=other))


def test_a_phase_is_not_resumed_by_another(tmp_path, mle):
    train(**arguments(tmp_path, epochs=1))
    with pytest.raises(UserError, match="objective was 'likelihood', is 'self-critical'"):
        train(**arguments(tmp_path, epochs=1, objective=self_critical(), start_from=str(mle)))


def test_features_are_told_by_the_hash_of_their_weights():
    assert with_weights({"model_name": "RN50"})["weights_sha256"].startswith("afeb0e10f9e5a86d")
    assert len(with_weights({"model_name": "tiny"})["weights_sha256"]) == 64
    assert with_weights(FEATURES) == FEATURES


def test_stored_grids_say_themselves_where_they_come_from():
    noted = {"model_name": "RN50", "weights_sha256": "0" * 64, "resolution_px": 64, "resize": "crop"}
    noted |= {"grid": {"pool": 2}, "convert_rgb": "after_resize"}
    assert as_noted(FEATURES, {}) == FEATURES
    assert as_noted(FEATURES, noted) == FEATURES | {"resize": "crop", "grid_pool": 2}
    for other in ({"resolution_px": 448}, {"weights_sha256": "1" * 64}):
        with pytest.raises(UserError, match="grid_model=tiny grid_resolution=64: the grids are those of RN50"):
            as_noted(FEATURES, noted | other)


def test_embeddings_of_another_model_are_refused():
    check_embeddings("tiny", {})
    check_embeddings("tiny", {"weights_sha256": with_weights({"model_name": "tiny"})["weights_sha256"]})
    with pytest.raises(UserError, match="reward_model=tiny: the embeddings are of ViT-B/32"):
        check_embeddings("tiny", {"weights_sha256": "0" * 64, "model_name": "ViT-B/32"})


def run(job: str, *given: str) -> int:
    return call(composed(job, "device=cpu", *given).job, _convert_="all")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> tuple[Path, list[str]]:
    """Both phases' data, and the first runs of each job."""
    folder = tmp_path_factory.mktemp("scenes")
    common = ["count=24", "validation_count=6", f"cache_path={folder}/cache"]
    data = [f"caption_data.{value}" for value in [*common, "word_count_threshold=0", "resolution=64"]]
    data += ["caption_data=scenes", "captioner=small", "batch_size=8", "max_steps=2"]
    assert run("caption_train", *data, f"output_path={folder}/mle") == 0
    grammar = ["grammar_data=scenes", "model_name=tiny", *(f"grammar_data.{value}" for value in common)]
    assert run("caption_grammar", *grammar, "batch_size=8", "max_steps=2", f"output_path={folder}/grammar") == 0
    return folder, data


REWARDS = sorted(path.stem for path in (CONFIGS / "caption_train/reward").glob("*.yaml"))


@pytest.mark.parametrize("reward", REWARDS)
def test_every_reward_runs_from_the_command_line(scenes, reward):
    folder, data = scenes
    given = ["caption_phase=scst", f"reward={reward}", f"start_from={folder}/mle/last.pt"]
    given += [f"grammar_path={folder}/grammar/grammar.pt", f"output_path={folder}/{reward}"]
    assert run("caption_train", *data, *given) == 0
    assert load_captioner(folder / reward / "captioner.pt").features["resolution"] == 64
    line = log(folder / reward)[0]
    assert line["held_out/clip_s"] >= 0
    parts = [reward] if reward == "ref_clips" else reward.split("_")
    assert {key for key in line if "reward" in key} == {f"held_out/reward_{part}" for part in parts}
    if reward == "clips":  # the same model and the same captions
        assert line["held_out/reward_clips"] == line["held_out/clip_s"]


def test_phases_have_their_own_defaults():
    first, second = (composed("caption_train", f"caption_phase={phase}") for phase in ("mle", "scst"))
    given = composed("caption_train", "caption_phase=scst", "optimizer.lr=1e-4", "epochs=3")
    assert first.schedule._target_.endswith("Noam")
    assert second.schedule._target_.endswith("Constant")
    assert (second.optimizer.lr, list(second.optimizer.betas), second.max_norm) == (5e-6, [0.9, 0.999], 0.1)
    assert (first.epochs, second.epochs, second.batch_size, second.samples_per_image) == (15, 25, 160, 5)
    assert (given.optimizer.lr, given.epochs) == (1e-4, 3)


def test_upstream_compat_lets_samples_and_greedy_captions_say_unk():
    ours, theirs = (
        composed("caption_train", "caption_phase=scst", f"upstream_compat={compat}") for compat in ("false", "true")
    )
    assert (ours.job.objective.upstream_compat, theirs.job.objective.upstream_compat) == (False, True)
    assert theirs.job.decoding.upstream_compat


TWO_PROCESSES = """
import os
import sys
from pathlib import Path

from tests.training.captioning.test_train_captioner import likelihood_run, self_critical_run

folder, start_from, port = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
assert likelihood_run(folder / "two", batch_size=3) == 0
os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": port}  # to meet once more
assert self_critical_run(folder / "scst", start_from) == 0
"""


def likelihood_run(folder: Path, *, batch_size: int) -> int:
    """Without dropout, which each process draws for itself."""
    changed = {"captioner": toy_captioner, "optimizer": partial(torch.optim.SGD, lr=0.1)}
    return train(**arguments(folder, max_steps=3, batch_size=batch_size, **changed))


def self_critical_run(folder: Path, start_from: str) -> int:
    return train(**arguments(folder, max_steps=2, batch_size=3, objective=self_critical(), start_from=start_from))


def test_two_processes_train_like_one(tmp_path, mle):
    """torchrun with gloo: the same weights, the same validation; with samples, which each draws for itself, it runs."""
    (tmp_path / "run.py").write_text(TWO_PROCESSES)
    root = CONFIGS.parent
    environment = os.environ | {"PYTHONPATH": f"{root}:{root}/tests", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command += [str(tmp_path / "run.py"), str(tmp_path), str(mle), str(port)]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert likelihood_run(tmp_path / "one", batch_size=6) == 0
    found, expected = (load(tmp_path / name / "last.pt") for name in ("two", "one"))
    assert found["step"] == 3
    assert len(found["rng"]) == 2
    torch.testing.assert_close(found["model"], expected["model"], atol=1e-5, rtol=1e-4)
    one, two = (log(tmp_path / name)[-1] for name in ("one", "two"))
    for key in ("held_out/loss", "held_out/cider", "held_out/clip_s"):
        assert two[key] == pytest.approx(one[key], abs=1e-3)
    assert load(tmp_path / "scst/last.pt")["step"] == 2


def test_toy_images_are_all_different():
    batch = next(toy_data().train.batches(Loading(12), epoch=0))
    assert len(batch) == len(COLOURS) * len(SHAPES)
    assert len({tuple(grid.flatten().tolist()) for grid in batch.grids}) == 12
