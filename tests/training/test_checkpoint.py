"""Checkpoints survive what kills a run."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from models.clip.description import describe
from models.clip.mixer import TextMixer, VisionMixer
from models.clip.model import CLIP
from models.clip.weights import load_model
from tests.helpers.tiny_clip import TINY, TINY_RESNET
from training.checkpoint import load, save
from training.contrastive.task import export
from training.recording import Recorder
from utils.command_line import CONFIGS
from utils.errors import UserError

CONTENT = {"model": {}, "optimizer": {}, "schedule": {}, "rng": [], "position": {}}


def test_kill_during_checkpointing_leaves_the_previous_one(tmp_path):
    """A process is killed with half of the new file written."""
    path = tmp_path / "last.pt"
    save(path, CONTENT | {"step": 1})
    program = (
        "import sys, time, torch\n"
        "from pathlib import Path\n"
        "from training import checkpoint\n"
        "def half(content, file):\n"
        "    file.write(b'x' * 1000)\n"
        "    file.flush()\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
        "checkpoint.torch.save = half\n"
        "checkpoint.save(Path(sys.argv[1]), {'step': 2})\n"
    )
    root = CONFIGS.parent
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"writing\n"
        child.send_signal(signal.SIGKILL)
    assert load(path)["step"] == 1
    save(path, CONTENT | {"step": 3})
    assert load(path)["step"] == 3


def test_failed_save_keeps_the_previous_one(tmp_path):
    path = tmp_path / "last.pt"
    save(path, CONTENT | {"step": 1})
    with pytest.raises(Exception, match=r"pickle|local"):
        save(path, {"step": lambda: None})
    assert load(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_unusable_files_are_named(tmp_path):
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=r"broken\.pt: not a readable checkpoint"):
        load(tmp_path / "broken.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "plain.pt")
    with pytest.raises(UserError, match=r"plain\.pt: cannot be resumed, it lacks .*optimizer"):
        load(tmp_path / "plain.pt")


def test_export_is_a_plain_state_dict_in_half_precision(tmp_path):
    model = TINY_RESNET.build()
    model.initialize()
    export(model, tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert set(state) == set(model.state_dict())
    counters = {key for key in state if key.endswith("num_batches_tracked")}
    assert {state[key].dtype for key in counters} == {torch.int64}
    assert {state[key].dtype for key in set(state) - counters} == {torch.float16}
    assert model.logit_scale.dtype == torch.float32


@pytest.mark.parametrize(
    "model",
    [
        CLIP(
            VisionMixer(resolution=32, patch_size=16, width=32, layers=1, embed_dim=16),
            TextMixer(context_length=20, width=16, layers=1, embed_dim=16, pool="mean"),
        ),
        TINY.build("gelu"),
    ],
    ids=["mixers", "gelu"],
)
def test_what_shapes_do_not_tell_is_exported_with_them(model, tmp_path):
    model.initialize()
    export(model, tmp_path / "model.pt", torch.float32)
    loaded = load_model(tmp_path / "model.pt")
    assert describe(loaded) == describe(model)
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in model.state_dict().items())


def test_two_runs_do_not_share_a_folder(tmp_path):
    with Recorder(tmp_path, 1, first_step=0, batch_size=1), pytest.raises(UserError, match="another process trains"):
        Recorder(tmp_path, 1, first_step=0, batch_size=1)
    with Recorder(tmp_path, 1, first_step=0, batch_size=1):
        pass
