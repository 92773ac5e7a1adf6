"""What surrounds a run: wrong values on the command line, closed streams, no home, few files, other languages.

Few processes, each for several cases: to start one takes seconds.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.shared_data import ROOT


@pytest.mark.timeout(300)
def test_a_wrong_value_for_any_key_is_one_line(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "tests.helpers.wrong_values"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["amiss"] == []
    assert found["jobs"] == len(list((ROOT / "configs").glob("*.yaml")))
    assert found["cases"] > 500
    assert os.listdir(tmp_path) == []
