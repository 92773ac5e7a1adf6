"""Wrong values of the training jobs' keys, as they come from the command line: one line that names the key."""

from pathlib import Path

import pytest
from hydra.errors import InstantiationException
from hydra.utils import call

from tests.helpers.caption_files import write_data_set
from tests.helpers.configs import composed
from utils.errors import UserError, user_error_in

SCENES = ("caption_experiment=[mle,smoke]", "caption_data.count=6", "caption_data.validation_count=2")
CSV = "image,caption\na.jpg,a cat\nb.jpg,a dog\n"


def mistake(job: str, *given: str) -> str:
    """What the user reads."""
    config = composed(job, *given)
    with pytest.raises((UserError, InstantiationException)) as caught:
        call(config.job, _convert_="all")
    return str(user_error_in(caught.value))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("max_steps=0", "max_steps=0: expected a whole number, 1 or more"),
        ("max_steps=many", "max_steps=many: expected a whole number"),
        ("save_every_steps=-1", "save_every_steps=-1: expected a whole number"),
        ("max_norm=-1", "max_norm=-1: expected a number, 0 at least"),
        ("ema_decay=2", "ema_decay=2: expected a number, 0 at least, 1 at most"),
        ("workers=few", "workers=few: expected a whole number, 0 or more"),
        ("seed=x", "seed=x: expected a whole number, 0 or more"),
        ("resume=perhaps", "resume=perhaps: expected true or false"),
        ("label_smoothing=2", "label_smoothing=2: expected a number, 0 at least, 1 at most"),
        ("captioner.heads=3", "width=16: expected a multiple of heads=3"),
        ("caption_data.max_length=0", "max_length=0: expected a whole number, 1 or more"),
        ("caption_data.size_px=0", "size_px=0: expected a whole number, 1 or more"),
        ("caption_data.resolution=0", "resolution=0: expected a whole number, 1 or more"),
        ("caption_data.batch_size=0", "batch_size=0: expected a whole number, 1 or more"),
        ("clip_prefix=null", "clip_prefix=None: expected a text"),
        ("optimizer.lr=fast", "optimizer.lr=fast: expected a number"),
    ],
)
def test_training(given: str, message: str, tmp_path: Path) -> None:
    assert mistake("caption_train", *SCENES, given, f"output_path={tmp_path}/run").startswith(message)
    assert not (tmp_path / "run").exists()


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    found = mistake("caption_train", *SCENES, "max_steps=1", "batch_size=6", f"output_path={tmp_path}/run")
    assert found.startswith(f"{tmp_path}/run: a file or folder of the same name is in the way")


def test_weights_of_rewards(tmp_path: Path) -> None:
    given = ("caption_phase=scst", "reward=clips", "reward.weights.clips=much", f"output_path={tmp_path}/run")
    assert mistake("caption_train", *SCENES, *given) == "reward.weights.clips=much: expected a number"


def test_labels_with_nothing_to_validate_on_are_told_before_weights_are_loaded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("training.captioning.rewards.frozen_text", pytest.fail)
    data = [f"{key}={path}" for key, path in write_data_set(tmp_path, ("train", "restval")).items()]
    given = ("caption_phase=scst", "reward=clips", "start_from=last.pt", "device=cpu", f"output_path={tmp_path}/run")
    found = mistake("caption_train", *data, *given)
    assert found.startswith(f"labels_path={tmp_path}/labels: no images of split val; there are train: 1, restval: 1; ")
    assert "caption_labels validation_share=0.1" in found


def test_photos(tmp_path: Path) -> None:
    tiny = ("caption_experiment=tiny", f"output_path={tmp_path}/run")
    assert mistake("caption_train", *tiny).startswith("photos.path: expected a folder or zip")
    found = mistake("caption_train", *tiny, f"caption_data.photos.path={tmp_path}", "caption_data.photos.count=5")
    assert "expected 5 photos and 200 to hold out" in found
    assert found.endswith("found 0")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("grammar_weight=x", "grammar_weight=x: expected a number"),
        ("clip_prefix=null", "clip_prefix=None: expected a text"),
    ],
)
def test_grammar(given: str, message: str, tmp_path: Path) -> None:
    data = ("grammar_data=scenes", "grammar_data.count=2", "grammar_data.validation_count=2", "model_name=tiny")
    assert mistake("caption_grammar", *data, "device=cpu", given, f"output_path={tmp_path}").startswith(message)


@pytest.mark.parametrize("threshold", ["rare", "-5", "1.5"])
def test_labels(threshold: str, tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text(CSV)
    given = (f"annotations={tmp_path}/captions.csv", f"output_path={tmp_path}", f"word_count_threshold={threshold}")
    expected = f"word_count_threshold={threshold}: expected a whole number, 0 or more"
    assert mistake("caption_labels", *given) == expected


def test_evaluation(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UserError, match=r"^predictions=.*expected the name of a file or folder"):
        composed("caption_evaluate", f"predictions=[{tmp_path}/a.json]", "references=b.json")
