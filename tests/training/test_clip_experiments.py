"""Training of CLIP models from the command line: every experiment in small, and evaluators."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import call

from models import clip
from models.clip.weights import load_model
from tests.helpers.small_data import COLOURS, arguments, jpeg, write_csv, write_shard
from tests.helpers.training_runs import assert_same, log, state
from training.checkpoint import load
from training.contrastive.evaluators import ZeroShot
from training.contrastive.train_clip import train
from utils.command_line import CONFIGS, prepare
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
    with initialize_config_dir(str(CONFIGS), version_base="1.3"), pytest.raises(InstantiationException) as caught:
        call(compose("train", [f"data={kind}"]).data, _convert_="all")
    assert str(user_error_in(caught.value)).startswith("data_path: expected ")


def smoke_data(name: str, folder: Path) -> list[str]:
    """Data of the kind that an experiment takes."""
    if name.startswith("laion"):
        for shard in range(2):
            write_shard(folder / f"shards/{shard:05}.tar", range(shard * 16, shard * 16 + 16))
        return [f"data_path={folder}/shards"]
    if name.startswith("flickr8k"):
        return [f"data_path={write_csv(folder)}", f"image_folder={folder}/images"]
    for number in range(60):
        target = folder / f"photos/train/{('cat', 'dog')[number % 2]}/{number:04}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(jpeg(number))
    return [f"data_path={folder}/photos", "data.sources.1.count=40", "data.sources.1.validation_count=8"]


EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
WITHOUT_TOWERS = {"compare"}  # what other experiments have in common
RUNS = [name for name in EXPERIMENTS if not name.endswith("_smoke") and name not in WITHOUT_TOWERS]


def test_the_large_experiments_have_a_smoke_size():
    large = {"flickr8k_resnet50_distilbert", "laion_coco_mixer_b32", "laion_coco_vit_b32", "tiny"}
    assert large | {f"{name}_smoke" for name in large} <= set(EXPERIMENTS)


@pytest.mark.parametrize("name", RUNS)
def test_every_experiment_composes_and_runs_in_small(tmp_path, name):
    output = tmp_path / "run"
    small = [f"experiment={name}", "max_steps=3", "batch_size=4"]
    if f"{name}_smoke" in EXPERIMENTS:
        small = [f"experiment={name}_smoke"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        compose("train", [f"experiment={name}"])
        given = [*small, f"output_path={output}", *smoke_data(name, tmp_path)]
        config = compose("train", prepare(["--config-name", "train", *given])[2:])
        assert call(config.job, _convert_="all") == 0
    assert load(output / "last.pt")["step"] == 3
    model, _ = clip.load(str(output / "last.pt"), device="cpu")
    assert model.encode_text(model.tokenize(["a red square"])).shape == (1, model.text.output_dim)
