"""A family that is one folder and one YAML, as CONTRIBUTING.md says: every job takes it."""

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import call

import models
from models.load import extractor
from tests.helpers.shared_data import ROOT
from tests.helpers.toy_family.family import ToyModel
from utils.command_line import CONFIGS, prepare
from utils.errors import UserError, user_error_in

SAMPLE = ROOT / "sample"
YAML = """\
defaults: [clip]
feature_type: toy
family:
  context_length: 48
"""
Job = Callable[..., int]


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The family is there; these are its weights."""
    shutil.copytree(ROOT / "tests" / "helpers" / "toy_family", tmp_path / "models" / "toy")
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path / "models")])
    (tmp_path / "configs" / "shared" / "feature_type").mkdir(parents=True)
    (tmp_path / "configs" / "shared" / "feature_type" / "toy.yaml").write_text(YAML)
    importlib.invalidate_caches()
    for name in ("models.toy", "models.toy.family"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    torch.manual_seed(0)
    torch.save(ToyModel().state_dict(), tmp_path / "small.pt")
    return tmp_path / "small.pt"


@pytest.fixture
def run(weights: Path, tmp_path: Path) -> Job:
    def run(job: str, *overrides: str) -> int:
        toy = [f"hydra.searchpath=[file://{tmp_path / 'configs'}]", "shared/feature_type@feature_type=toy"]
        given = prepare(["--config-name", job, f"model_name={weights}", "device=cpu", *overrides])[2:]
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose(job, [*toy, f"output_path='{tmp_path / 'out'}'", *given])
        return call(config.job, _convert_="all")

    return run


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_extract(run: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str) -> None:
    inputs = (
        f"image_paths={SAMPLE / 'cat.jpg'}",
        f"video_paths={SAMPLE / 'v_GGSY1Qvo990.mp4'}",
        "texts=[a cat, a dog]",
    )
    options = ("features=[global,grid]", "extraction_total=2", "on_extraction=[save_numpy,save_npz]")
    assert run("extract", *inputs, *options, f"precision={precision}") == 0
    home = tmp_path / "out" / "toy" / "small"
    assert np.load(home / "v_GGSY1Qvo990_toy.npy").shape == (2, 12)
    assert np.load(home / "v_GGSY1Qvo990_grid.npy").shape == (2, 9, 16)
    assert np.load(tmp_path / "out" / "toy" / "small_texts" / "texts_toy.npy").shape == (2, 12)
    settings = json.loads((home / "cat_meta.json").read_text())["settings"]
    assert (settings["context_length"], settings["resample"]) == (48, "bilinear")
    assert run("extract", *inputs, *options, f"precision={precision}") == 0
    assert "3 skipped" in capsys.readouterr().err


def test_show_pred_is_by_its_sigmoid(run: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("extract", f"image_paths={SAMPLE / 'cat.jpg'}", "show_pred=true", "pred_texts=[a cat, a dog]") == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.endswith(("a cat", "a dog"))]
    for logit, probability, _ in rows:
        assert float(probability) == pytest.approx(1 / (1 + np.exp(-float(logit))), abs=1e-3)


def test_search(run: Job, tmp_path: Path) -> None:
    assert run("search", "query=a cat", f"image_paths={SAMPLE}") == 0
    assert json.loads((tmp_path / "out" / "a_cat.json").read_text())["model"]["feature_type"] == "toy"


def test_evaluate(run: Job, tmp_path: Path) -> None:
    assert run("evaluate", "evaluation=[retrieval]", "num_scenes=6") == 0
    assert (tmp_path / "out" / "small" / "results.json").is_file()


def test_without_hydra(weights: Path) -> None:
    ours = extractor("toy", model_name=str(weights), device="cpu", context_length=12)
    assert ours.extract_image(SAMPLE / "cat.jpg")["toy"].shape == (1, 12)
    with pytest.raises(UserError, match="the text has 13 tokens, 12 is the most"):
        ours.extract_texts(["twelveletter"])


def test_what_it_does_not_understand_is_refused(run: Job) -> None:
    with pytest.raises(InstantiationException) as caught:
        run("extract", f"image_paths={SAMPLE}", "resolution=48")
    assert "resolution=48: feature_type=toy has no such option" in str(user_error_in(caught.value))
