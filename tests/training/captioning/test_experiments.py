"""The five captioners of the paper, each at a size that trains in seconds."""

from pathlib import Path

import pytest
from hydra.utils import call

from models.captioner.checkpoint import load_captioner
from tests.helpers.configs import composed

SCENES = ("caption_data.seed=0", "caption_data.resolution=64")


def run(job: str, *overrides: str) -> int:
    return call(composed(job, *overrides).job, _convert_="all")


@pytest.fixture(scope="module")
def mle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mle")
    assert run("caption_train", "caption_experiment=[mle,smoke]", *SCENES, f"output_path={folder}") == 0
    return folder / "last.pt"


@pytest.fixture(scope="module")
def grammar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grammar")
    data = ("grammar_data=scenes", "grammar_data.count=16", "grammar_data.validation_count=4", "model_name=tiny")
    assert run("caption_grammar", *data, "batch_size=8", "max_steps=2", "device=cpu", f"output_path={folder}") == 0
    return folder / "grammar.pt"


@pytest.mark.parametrize("name", ["cider", "clips", "cider_clips", "clips_grammar"])
def test_rewards(name: str, mle: Path, grammar: Path, tmp_path: Path) -> None:
    given = (f"start_from={mle}", f"grammar_path={grammar}", f"output_path={tmp_path}")
    assert run("caption_train", f"caption_experiment=[{name},smoke]", *SCENES, *given) == 0
    before, after = load_captioner(mle), load_captioner(tmp_path / "captioner.pt")
    assert before.vocabulary.words == after.vocabulary.words
    changed = [
        key for key, value in after.model.state_dict().items() if not value.equal(before.model.state_dict()[key])
    ]
    assert changed


@pytest.mark.parametrize("name", ["mle", "cider", "clips", "cider_clips", "clips_grammar"])
def test_the_papers_sizes(name: str) -> None:
    """Batches, epochs and weights of the released configurations."""
    config = composed("caption_train", f"caption_experiment={name}")
    sizes = (config.captioner.width, config.captioner.layers, config.captioner.hidden)
    assert sizes == (512, 6, 2048)
    assert (config.epochs, config.batch_size) == {"mle": (15, 200), "cider": (25, 200)}.get(name, (25, 160))
    assert config.max_norm == 0.1
    if name == "mle":
        assert list(config.optimizer.betas) == [0.9, 0.98]
        return
    assert config.optimizer.lr == 5e-6
    weights = {"cider": {"cider": 1.0}, "clips": {"clips": 2.0}, "cider_clips": {"clips": 2.0, "cider": 1.0}}
    assert dict(config.reward.weights) == weights.get(name, {"clips": 2.0, "grammar": 1.0})


def test_upstream_compat() -> None:
    own, upstream = (
        composed("caption_train", f"upstream_compat={value}", "reward=ref_clips") for value in ("false", "true")
    )
    found = [
        (
            config.captioner.layer_norm,
            config.schedule.warmup_steps,
            config.schedule.warmup_share,
            config.reward.rewards.ref_clips.reference_scale,
            config.job.decoding.upstream_compat,
        )
        for config in (own, upstream)
    ]
    assert found == [("standard", None, 0.1, 1.0, False), ("unbiased", 20000, None, 2.5, True)]
