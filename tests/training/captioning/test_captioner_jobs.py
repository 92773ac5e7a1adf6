"""The captioner's jobs through Hydra: every reward, the phases' own defaults."""

from pathlib import Path

import pytest
from hydra.utils import call

from models.captioner.checkpoint import load_captioner
from tests.helpers.configs import composed
from tests.helpers.training_runs import log
from utils.command_line import CONFIGS


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
    assert first.schedule._target_.endswith(".noam")
    assert second.schedule._target_.endswith(".constant")
    assert (second.optimizer.lr, list(second.optimizer.betas), second.max_norm) == (5e-6, [0.9, 0.999], 0.1)
    assert (first.epochs, second.epochs, second.batch_size, second.samples_per_image) == (15, 25, 160, 5)
    assert (given.optimizer.lr, given.epochs) == (1e-4, 3)


def test_upstream_compat_lets_samples_and_greedy_captions_say_unk():
    ours, theirs = (
        composed("caption_train", "caption_phase=scst", f"upstream_compat={compat}") for compat in ("false", "true")
    )
    assert (ours.job.objective.upstream_compat, theirs.job.objective.upstream_compat) == (False, True)
    assert theirs.job.decoding.upstream_compat
