"""Contrastive training with several processes, as README.md starts it: what one would have found."""

import os
import subprocess
import sys

import torch
from hydra.utils import call

from tests.helpers.configs import composed
from tests.helpers.shared_data import ROOT
from tests.helpers.small_data import write_csv
from training.checkpoint import load

SMALL = ["embed_dim=16", "vision.resolution=32", "vision.patch_size=16"]
SMALL += [f"{tower}.{size}" for tower in ("vision", "text") for size in ("width=64", "layers=1", "heads=1")]
# Steps that follow the gradient: by itself Adam makes whole steps of rounding errors.
PLAIN_STEPS = ["optimizer.lr=0.3", "optimizer.eps=1.0", "schedule.warmup_steps=1", "device=cpu"]


def test_two_processes_train_like_one(tmp_path):
    """torchrun with gloo: the weights after three steps are those of one process with the whole batch."""
    data = [f"data_path={write_csv(tmp_path, captions_each=1)}", f"image_folder={tmp_path}/images"]
    given = [*data, "data.augment.crop=center", *SMALL, *PLAIN_STEPS, "epochs=4", "stop_after_steps=3"]
    one, two = (
        ["--config-name", "train", *given, f"batch_size={size}", f"output_path={tmp_path}/{name}"]
        for name, size in (("one", 8), ("two", 4))
    )
    assert call(composed("train", *one[2:]).job, _convert_="all") == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, "main.py", *two], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    expected, found = (load(tmp_path / name / "last.pt") for name in ("one", "two"))
    assert found["step"] == expected["step"] == 3
    assert len(found["rng"]) == 2
    assert done.stdout.count("epoch 3: captions/loss") == 1  # the first process reports
    torch.testing.assert_close(found["model"], expected["model"], atol=1e-5, rtol=1e-4)
