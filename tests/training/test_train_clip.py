"""The trainer: it learns, it stops and goes on as if it had not stopped, it says what went wrong."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import call

from models import clip
from models.clip.model import CLIP
from pairs.augment import Augment
from pairs.batches import View
from pairs.loading import Loading
from tests.helpers.configs import composed
from tests.helpers.small_data import (
    COLOURS,
    RESNET,
    TEXT,
    VISION,
    Dropped,
    arguments,
    eight_pairs,
    jpeg,
    write_csv,
    write_shard,
)
from training import fit
from training.checkpoint import load
from training.compute import Compute
from training.contrastive.evaluators import ZeroShot
from training.contrastive.losses import ClipLoss, IdInfoNCE
from training.contrastive.task import ContrastiveTask, backward, recall_at_1
from training.contrastive.train_clip import train
from training.optimization import Plateau, adamw
from training.recompute import recompute_blocks
from training.step import step
from utils.command_line import CONFIGS, option_names
from utils.errors import UserError, user_error_in

CPU = Compute(torch.device("cpu"))


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def state(folder: Path, name: str = "last.pt") -> dict:
    content = load(folder / name)
    return {key: content[key] for key in ("model", "trained", "optimizer", "schedule", "rng", "position")}


def assert_same(one, other) -> None:
    """To the bit, through all that a checkpoint is made of."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.equal(other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


@pytest.mark.parametrize("vision", [VISION, RESNET])
def test_overfits_eight_pairs(tmp_path, vision):
    assert train(**arguments(tmp_path, vision=vision, epochs=60, batch_size=8)) == 0
    first, last = log(tmp_path)[0], log(tmp_path)[-1]
    assert last["squares/loss"] < 0.3 < first["squares/loss"]
    assert last["squares/image_to_text_r1"] == last["squares/text_to_image_r1"] == 1
    assert len(log(tmp_path)) == 60
    assert list((tmp_path / "tensorboard").iterdir())


def stop_after(monkeypatch, steps: int) -> None:
    """A signal arrives during step number `steps`."""
    done = []

    def counted(*args, **keywords):
        done.append(None)
        if len(done) == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args, **keywords)

    monkeypatch.setattr(fit, "step", counted)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 8])
def test_resumed_run_equals_the_uninterrupted_one_to_the_bit(tmp_path, monkeypatch, steps):
    changed = {"text": Dropped, "vision": RESNET, "ema_decay": 0.9, "data": eight_pairs(Augment("shift", colour=0.2))}
    monkeypatch.setattr("training.contrastive.task.describe", lambda model: {})  # `Dropped` is no tower of ours
    assert train(**arguments(tmp_path / "whole", **changed)) == 0
    stop_after(monkeypatch, steps)
    assert train(**arguments(tmp_path / "parts", **changed)) == 128 + signal.SIGTERM
    assert load(tmp_path / "parts/last.pt")["step"] == steps
    monkeypatch.undo()
    monkeypatch.setattr("training.contrastive.task.describe", lambda model: {})
    assert train(**arguments(tmp_path / "parts", **changed)) == 0
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))
    assert_same(state(tmp_path / "parts", "best.pt"), state(tmp_path / "whole", "best.pt"))
    assert_same(torch.load(tmp_path / "parts/model.pt"), torch.load(tmp_path / "whole/model.pt"))


def test_resume_with_a_plateau_schedule(tmp_path, monkeypatch):
    changed = {"schedule": partial(Plateau, patience=0), "epochs": 5}
    train(**arguments(tmp_path / "whole", **changed))
    stop_after(monkeypatch, 5)
    train(**arguments(tmp_path / "parts", **changed))
    monkeypatch.undo()
    train(**arguments(tmp_path / "parts", **changed))
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))


def test_finished_run_is_left_alone(tmp_path):
    train(**arguments(tmp_path, epochs=1))
    before = state(tmp_path)
    assert train(**arguments(tmp_path, epochs=1)) == 0
    assert_same(state(tmp_path), before)


def test_other_settings_are_refused_in_one_line(tmp_path):
    train(**arguments(tmp_path, epochs=1))
    with pytest.raises(UserError, match=r"last\.pt: a run with other settings: seed was 0, is 1\. .*resume=false"):
        train(**arguments(tmp_path, epochs=1, seed=1))
    with pytest.raises(UserError, match=r"last\.pt: of another model"):
        train(**arguments(tmp_path, epochs=1, vision=RESNET))
    assert train(**arguments(tmp_path, epochs=1, seed=1, resume=False)) == 0


def test_initial_weights_follow_the_seed(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(**arguments(tmp_path / name, max_steps=1, seed=seed))
    a, b, c = (load(tmp_path / name / "last.pt")["model"]["visual.conv1.weight"] for name in "abc")
    assert a.equal(b)
    assert not a.equal(c)


class BecomesNaN(ClipLoss):
    calls = 0

    def forward(self, *args):
        self.calls += 1
        return super().forward(*args) * (float("nan") if self.calls == 2 else 1)


def test_nan_stops_before_the_weights_change_and_names_the_batch(tmp_path):
    data = eight_pairs()
    with pytest.raises(UserError) as caught:
        train(**arguments(tmp_path, loss=BecomesNaN(), save_every_steps=1))
    batch = list(data.train.batches(View(32), Loading(4), epoch=0))[1]
    ids = ", ".join(str(i) for i in batch.ids.tolist())
    assert "step 2 (batch 2 of epoch 1): the loss is nan" in str(caught.value)
    assert f"image ids of the batch: {ids}" in str(caught.value)
    assert all(value.isfinite().all() for value in load(tmp_path / "last.pt")["model"].values())
    assert load(tmp_path / "last.pt")["step"] == 1


def model_and_batch(loss=None, vision=VISION):
    torch.manual_seed(0)
    model = CLIP(vision(), TEXT())
    model.initialize()
    pairs = eight_pairs().train
    batch = next(pairs.batches(View(32), Loading(8), epoch=0))
    return model, batch


@pytest.mark.parametrize("loss", [ClipLoss(), IdInfoNCE()])
@pytest.mark.parametrize("parts", [2, 3, 8])
def test_accumulated_gradient_is_that_of_the_whole_batch(loss, parts):
    model, batch = model_and_batch()
    value = backward(model, loss, batch, CPU)
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    assert backward(model, loss, batch, CPU, parts) == pytest.approx(value)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4, msg=name)


def test_recomputed_activations_give_the_same_gradient():
    model, batch = model_and_batch(vision=partial(RESNET))
    backward(model, ClipLoss(), batch, CPU)
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    keys = set(model.state_dict())
    model.zero_grad()
    assert recompute_blocks(model) == 5
    backward(model, ClipLoss(), batch, CPU)
    assert set(model.state_dict()) == keys
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)


def test_logit_scale_is_clamped_after_the_step():
    model, batch = model_and_batch()
    model.logit_scale.data.fill_(10.0)
    task = ContrastiveTask(model, ClipLoss(), eight_pairs())
    step(task, adamw(list(model.named_parameters()), lr=1e-3), batch, CPU)
    assert model.logit_scale.exp().item() == pytest.approx(100)


def test_bf16_keeps_float32_weights(tmp_path):
    train(**arguments(tmp_path, precision="bf16", epochs=1, vision=RESNET))
    assert {value.dtype for value in load(tmp_path / "last.pt")["model"].values()} == {torch.float32, torch.int64}


def test_wrong_options_are_answered_in_one_line(tmp_path):
    for changed, message in (
        ({"precision": "fp8"}, "precision=fp8"),
        ({"precision": "fp16"}, "CUDA only"),
        ({"batch_size": 9}, "only 8 rows to train on"),
        ({"epochs": 0}, "epochs=0"),
        ({"text": partial(TEXT, embed_dim=8)}, "embed_dim"),
    ):
        with pytest.raises(UserError, match=message):
            train(**arguments(tmp_path, **changed))


def test_recall_counts_any_pair_of_the_id_and_ties_against():
    queries = torch.eye(3)
    assert recall_at_1(queries, torch.eye(3), torch.tensor([1, 2, 3])) == 1
    assert recall_at_1(queries, torch.eye(3)[[1, 0, 2]], torch.tensor([1, 1, 3])) == 1
    assert recall_at_1(queries, torch.ones(3, 3), torch.tensor([1, 2, 3])) == 0


def test_checkpoints_load_everywhere(tmp_path):
    """vocab 49408 and head width 64: what OpenAI's layout can tell from shapes alone."""
    towers = {
        "vision": partial(RESNET, width=16, heads=8),
        "text": partial(TEXT, width=64, context_length=77),
    }
    train(**arguments(tmp_path, epochs=1, **towers))
    own = load(tmp_path / "last.pt")["model"]
    for name in ("last.pt", "best.pt", "model.pt"):
        model, preprocess = clip.load(str(tmp_path / name), device="cpu")
        torch.testing.assert_close(model.state_dict(), own, atol=1e-3, rtol=1e-2)
        assert preprocess.resolution == 32
    assert (tmp_path / "model.pt").stat().st_size < 0.6 * sum(4 * value.numel() for value in own.values())


def test_evaluators_see_the_model_and_are_logged(tmp_path):
    train(**arguments(tmp_path, epochs=1, evaluators=[lambda model: {"scale": float(model.logit_scale.detach())}]))
    assert log(tmp_path)[0]["scale"] > 0


def test_zero_shot_accuracy_is_logged_and_leaves_the_model_alone(tmp_path):
    for number in range(8):
        target = tmp_path / f"photos/{COLOURS[number]}/0.jpg"
        target.parent.mkdir(parents=True)
        target.write_bytes(jpeg(number))
    watch = ZeroShot(class_images_path=str(tmp_path / "photos"))
    train(**arguments(tmp_path / "one", epochs=2, evaluators=[watch]))
    train(**arguments(tmp_path / "two", epochs=2))
    assert 0 <= log(tmp_path / "one")[1]["zero_shot/top1_percent"] <= 100
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


TWO_PROCESSES = """
import sys
from functools import partial
from pathlib import Path

from torch.optim import SGD

from tests.helpers.small_data import arguments, eight_pairs
from training.contrastive.train_clip import train

folder, batch_size = Path(sys.argv[1]), int(sys.argv[2])
data = eight_pairs(captions_each=1)  # captions are drawn by each process for itself
sys.exit(train(**arguments(folder, data=data, max_steps=3, batch_size=batch_size, optimizer=partial(SGD, lr=0.1))))
"""


def test_two_processes_train_like_one(tmp_path):
    """torchrun with gloo: the weights after three steps are those of one process with the whole batch."""
    (tmp_path / "run.py").write_text(TWO_PROCESSES)
    root = CONFIGS.parent
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for start, name, batch_size in (([sys.executable], "one", "8"), (launcher, "two", "4")):
        command = [*start, str(tmp_path / "run.py"), str(tmp_path / name), batch_size]
        done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    expected, found = (load(tmp_path / name / "last.pt") for name in ("one", "two"))
    assert found["step"] == expected["step"] == 3
    assert len(found["rng"]) == 2
    torch.testing.assert_close(found["model"], expected["model"], atol=1e-5, rtol=1e-4)
