"""Contrastive training with several processes: what one would have found."""

import os
import subprocess
import sys

import torch

from training.checkpoint import load
from utils.command_line import CONFIGS

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
