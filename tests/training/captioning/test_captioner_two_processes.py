"""Training of captioners with several processes: what one would have found."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from tests.helpers.captioner_runs import first_phase, likelihood_run
from tests.helpers.training_runs import log
from training.checkpoint import load
from utils.command_line import CONFIGS

TWO_PROCESSES = """
import os
import sys
from pathlib import Path

from tests.helpers.captioner_runs import likelihood_run, self_critical_run

folder, start_from, port = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
assert likelihood_run(folder / "two", batch_size=3) == 0
os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": port}  # to meet once more
assert self_critical_run(folder / "scst", start_from) == 0
"""


def test_two_processes_train_like_one(tmp_path):
    """torchrun with gloo: the same weights, the same validation; with samples, which each draws for itself, it runs."""
    mle = first_phase(tmp_path / "mle")
    (tmp_path / "run.py").write_text(TWO_PROCESSES)
    root = CONFIGS.parent
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command += [str(tmp_path / "run.py"), str(tmp_path), str(mle), str(port)]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert likelihood_run(tmp_path / "one", batch_size=6) == 0
    found, expected = (load(tmp_path / name / "last.pt") for name in ("two", "one"))
    assert found["step"] == 3
    assert len(found["rng"]) == 2
    torch.testing.assert_close(found["model"], expected["model"], atol=1e-5, rtol=1e-4)
    one, two = (log(tmp_path / name)[-1] for name in ("one", "two"))
    for key in ("held_out/loss", "held_out/cider", "held_out/clip_s"):
        assert two[key] == pytest.approx(one[key], abs=1e-3)
    assert load(tmp_path / "scst/last.pt")["step"] == 2
