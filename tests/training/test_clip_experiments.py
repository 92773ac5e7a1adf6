"""Training of CLIP models from the command line: every experiment in small, and evaluators."""

from pathlib import Path

import pytest
from hydra.errors import InstantiationException
from hydra.utils import call

from models import clip
from models.clip.weights import load_model
from tests.helpers.configs import composed
from tests.helpers.small_data import COLOURS, arguments, jpeg, write_csv, write_shard
from tests.helpers.training_runs import assert_same, log, state
from training.checkpoint import load
from training.contrastive.evaluators import ZeroShot
from training.contrastive.train_clip import train
from utils.command_line import CONFIGS, option_names
from utils.errors import user_error_in


def test_zero_shot_accuracy_is_logged_and_leaves_the_model_alone(tmp_path):
    for number in range(8):
        target = tmp_path / f"photos/{COLOURS[number]}/0.jpg"
        target.parent.mkdir(parents=True)
        target.write_bytes(jpeg(number))
    watch = ZeroShot(class_images_path=str(tmp_path / "photos"))
    train(**arguments(tmp_path / "one", epochs=2, evaluators=[watch]))
    train(**arguments(tmp_path / "two", epochs=2))
    expected = watch(load_model(tmp_path / "one/last.pt"))["zero_shot/top1_percent"]
    assert log(tmp_path / "one")[1]["zero_shot/top1_percent"] == pytest.approx(expected)
    assert_same(state(tmp_path / "one"), state(tmp_path / "two"))


@pytest.mark.parametrize("kind", ["captions_csv", "karpathy", "class_folders", "tar_shards"])
def test_data_without_a_path_is_answered_in_one_line(kind):
    with pytest.raises(InstantiationException) as caught:
        call(composed("train", f"data={kind}").data, _convert_="all")
    assert str(user_error_in(caught.value)).startswith("data_path: expected ")


def small(name: str, folder: Path) -> list[str]:
    """What an experiment needs beside `smoke`: data of its kind, and where its towers are large, their sizes."""
    if name.startswith("laion"):
        for shard in range(2):
            write_shard(folder / f"shards/{shard:05}.tar", range(shard * 16, shard * 16 + 16))
        heads = ["vision.heads=1", "text.heads=1"] if "vit" in name else []
        towers = ["vision.patch_size=16", "vision.width=64", "vision.layers=1", "text.width=64", *heads]
        return [f"data_path={folder}/shards", *towers]
    if name.startswith("flickr8k"):
        towers = ["vision.model_name=resnet18", "vision.pretrained=false", "text.pretrained=null"]
        return [f"data_path={write_csv(folder)}", f"image_folder={folder}/images", *towers]
    for number in range(60):
        target = folder / f"photos/train/{('cat', 'dog')[number % 2]}/{number:04}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(jpeg(number))
    return [f"data_path={folder}/photos", "data.sources.1.count=40", "data.sources.1.validation_count=8"]


EXPERIMENTS = set(option_names(CONFIGS / "train/experiment"))
NO_RUNS = {"compare", "smoke"}  # what other experiments have in common, and what makes them small


def test_the_large_experiments_are_there():
    large = {"flickr8k_resnet50_distilbert", "laion_coco_mixer_b32", "laion_coco_vit_b32", "tiny"}
    assert large | NO_RUNS < EXPERIMENTS


@pytest.mark.parametrize("name", sorted(EXPERIMENTS - NO_RUNS))
def test_every_experiment_composes_and_runs_in_small(tmp_path, name):
    output = tmp_path / "run"
    whole = composed("train", f"experiment={name}")
    config = composed("train", f"experiment=[{name},smoke]", f"output_path={output}", *small(name, tmp_path))
    assert (config.vision._target_, config.text._target_) == (whole.vision._target_, whole.text._target_)
    assert (config.data._target_, config.loss) == (whole.data._target_, whole.loss)
    assert call(config.job, _convert_="all") == 0
    assert load(output / "last.pt")["step"] == 3
    model, _ = clip.load(str(output / "last.pt"), device="cpu")
    assert model.encode_text(model.tokenize(["a red square"])).shape == (1, model.text.output_dim)
