"""The trainer: it learns, it stops and goes on as if it had not stopped, it says what went wrong."""

import copy
import logging
import os
import signal
from functools import partial
from itertools import islice

import pytest
import torch

from models import clip
from pairs.augment import Augment
from pairs.batches import InputSize
from pairs.loading import Loading
from tests.helpers.small_data import RESNET, TEXT, VISION, Dropped, arguments, eight_pairs
from tests.helpers.training_runs import assert_same, log, state, stop_after, stop_in
from training import fit
from training.checkpoint import load, save
from training.contrastive import task
from training.contrastive.losses import ClipLoss
from training.contrastive.train_clip import train
from training.schedules import plateau
from utils.errors import UserError


@pytest.mark.parametrize("vision", [VISION, RESNET])
def test_overfits_eight_pairs(tmp_path, vision):
    assert train(**arguments(tmp_path, vision=vision, epochs=60, batch_size=8)) == 0
    first, last = log(tmp_path)[0], log(tmp_path)[-1]
    assert last["squares/loss"] < 0.3 < first["squares/loss"]
    assert last["squares/image_to_text_r1"] == last["squares/text_to_image_r1"] == 1
    assert len(log(tmp_path)) == 60
    assert list((tmp_path / "tensorboard").iterdir())


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


@pytest.mark.parametrize("epoch", [1, 4])
def test_one_stopped_while_it_validates_does_that_again(tmp_path, monkeypatch, epoch):
    """Validation takes minutes, a batch system waits for seconds."""
    changed = {"vision": RESNET, "ema_decay": 0.9}
    assert train(**arguments(tmp_path / "whole", **changed)) == 0
    stop_in(monkeypatch, task.ContrastiveTask, "validate", epoch)
    assert train(**arguments(tmp_path / "parts", **changed)) == 128 + signal.SIGTERM
    assert len(log(tmp_path / "parts") if epoch > 1 else []) == epoch - 1
    monkeypatch.undo()
    assert train(**arguments(tmp_path / "parts", **changed)) == 0
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))
    assert len(log(tmp_path / "parts")) == len(log(tmp_path / "whole"))
    assert not (tmp_path / "parts" / ".running").exists()


def test_workers_that_are_told_to_end_as_well_are_no_error(tmp_path, monkeypatch):
    """A batch system tells all processes."""
    assert train(**arguments(tmp_path / "whole")) == 0
    make = task.ContrastiveTask.batches

    def cut(self, loading, *, epoch, start):
        yield from islice(make(self, loading, epoch=epoch, start=start), 1)
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("DataLoader worker (pid(s) 4711) exited unexpectedly")

    monkeypatch.setattr(task.ContrastiveTask, "batches", cut)
    assert train(**arguments(tmp_path / "parts")) == 128 + signal.SIGTERM
    monkeypatch.undo()
    assert load(tmp_path / "parts/last.pt")["step"] == 1
    assert train(**arguments(tmp_path / "parts")) == 0
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))


@pytest.mark.parametrize("steps", [3, 4])
def test_left_off_in_the_middle_of_its_schedule_a_run_goes_on_as_if_it_had_not(tmp_path, monkeypatch, caplog, steps):
    """Within an epoch of two steps, and at the end of one."""
    changed = {"vision": RESNET, "ema_decay": 0.9}
    assert train(**arguments(tmp_path / "whole", **changed)) == 0
    with caplog.at_level(logging.INFO):
        assert train(**arguments(tmp_path / "parts", stop_after_steps=steps, **changed)) == 0
    assert f"left off after step {steps} of 8 (stop_after_steps)" in caplog.text
    left = load(tmp_path / "parts/last.pt")
    assert (left["step"], len(log(tmp_path / "parts"))) == (steps, 2 if steps == 4 else 1)
    exported = torch.load(tmp_path / "parts/model.pt", weights_only=True)
    assert exported["visual.conv1.weight"].equal(left["model"]["visual.conv1.weight"].half())
    with monkeypatch.context() as patched:
        patched.setattr(fit, "step", lambda *_, **__: pytest.fail("trained on"))
        assert train(**arguments(tmp_path / "parts", stop_after_steps=2, **changed)) == 0
    assert train(**arguments(tmp_path / "parts", stop_after_steps=100, **changed)) == 0
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))
    assert_same(torch.load(tmp_path / "parts/model.pt"), torch.load(tmp_path / "whole/model.pt"))


def test_resume_with_a_plateau_schedule(tmp_path, monkeypatch):
    changed = {"schedule": partial(plateau, patience=0), "epochs": 5}
    train(**arguments(tmp_path / "whole", **changed))
    stop_after(monkeypatch, 5)
    train(**arguments(tmp_path / "parts", **changed))
    monkeypatch.undo()
    train(**arguments(tmp_path / "parts", **changed))
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))


def test_finished_run_is_left_alone(tmp_path, monkeypatch):
    assert train(**arguments(tmp_path, epochs=1)) == 0
    before, lines = (tmp_path / "last.pt").stat().st_mtime_ns, log(tmp_path)
    monkeypatch.setattr(fit, "step", lambda *_, **__: pytest.fail("trained once more"))
    assert train(**arguments(tmp_path, epochs=1)) == 0
    assert (tmp_path / "last.pt").stat().st_mtime_ns == before
    assert log(tmp_path) == lines


def test_killed_between_its_two_checkpoints_a_run_comes_to_both(tmp_path, monkeypatch):
    saved = []

    def killed_at_the_second(path, content):
        if saved:
            raise KeyboardInterrupt
        saved.append(path)
        save(path, content)

    monkeypatch.setattr("training.checkpoint.save", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        train(**arguments(tmp_path, epochs=1))
    monkeypatch.undo()
    assert train(**arguments(tmp_path, epochs=1)) == 0
    assert {path.name for path in tmp_path.glob("*.pt")} == {"best.pt", "last.pt", "model.pt"}


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


def test_batches_are_computed_in_parts(tmp_path, monkeypatch):
    """As many as `accumulation` says; the run is the same otherwise."""
    sizes, encode = [], task.encode

    def counted(model, inputs, compute):
        sizes.append(len(inputs.pixels))
        return encode(model, inputs, compute)

    changed = {"max_steps": 2, "optimizer": partial(torch.optim.SGD, lr=0.1)}
    train(**arguments(tmp_path / "whole", **changed))
    monkeypatch.setattr(task, "encode", counted)
    train(**arguments(tmp_path / "parts", **changed, accumulation=4))
    assert sizes[:8] == [1] * 8  # four parts, each of them twice
    whole, parts = (load(tmp_path / name / "last.pt")["model"] for name in ("whole", "parts"))
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-4)


def test_the_average_is_what_is_validated_and_exported(tmp_path):
    """With BatchNorm: its running statistics are averaged like the weights, its counts of batches are not."""
    seen = []

    def evaluator(model):
        seen.append(copy.deepcopy(model.state_dict()))
        return {}

    train(**arguments(tmp_path, epochs=2, vision=RESNET, ema_decay=0.9, evaluators=[evaluator]))
    content = load(tmp_path / "last.pt")
    own, averaged = content["trained"], content["model"]
    assert_same(dict(seen[-1]), dict(averaged))
    for key in ("visual.conv1.weight", "visual.bn1.running_mean"):
        assert not own[key].equal(averaged[key])
    assert own["visual.bn1.num_batches_tracked"] == averaged["visual.bn1.num_batches_tracked"] == 4
    exported = torch.load(tmp_path / "model.pt", weights_only=True)
    exported = exported.get("model", exported)
    assert exported["visual.bn1.running_mean"].equal(averaged["visual.bn1.running_mean"].half())


class BecomesNaN(ClipLoss):
    calls = 0

    def forward(self, *args):
        self.calls += 1
        return super().forward(*args) * (float("nan") if self.calls == 2 else 1)


def test_nan_stops_before_the_weights_change_and_names_the_batch(tmp_path):
    data = eight_pairs()
    with pytest.raises(UserError) as caught:
        train(**arguments(tmp_path, loss=BecomesNaN(), save_every_steps=1))
    batch = list(data.train.batches(InputSize(32), Loading(4), epoch=0))[1]
    ids = ", ".join(str(i) for i in batch.ids.tolist())
    assert "step 2 (batch 2 of epoch 1): the loss is nan" in str(caught.value)
    assert f"image ids of the batch: {ids}" in str(caught.value)
    assert all(value.isfinite().all() for value in load(tmp_path / "last.pt")["model"].values())
    assert load(tmp_path / "last.pt")["step"] == 1


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
        ({"text": partial(TEXT, heads=0)}, r"text: no tower of .*text\.heads=0, "),
        ({"text": partial(TEXT, embed_dim="'")}, r"text: no tower of .*text\.embed_dim=': "),
    ):
        with pytest.raises(UserError, match=message):
            train(**arguments(tmp_path, **changed))


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
    scale = float(load(tmp_path / "last.pt")["model"]["logit_scale"])
    assert log(tmp_path)[0]["scale"] == pytest.approx(scale, abs=1e-5)
