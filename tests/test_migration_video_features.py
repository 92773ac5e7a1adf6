"""docs/migration_video_features.md: commands of another tool mean here what they mean there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.configs import composed
from tests.helpers.shared_data import ROOT
from utils.command_line import prepare
from utils.errors import UserError

DOCUMENT = (ROOT / "docs" / "migration_video_features.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:4]] for line in re.findall(r"^\| `.*", DOCUMENT, re.M)]
(COMMAND,) = re.findall(r"^```bash\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


def keys(cell: str) -> list[list[str]]:
    """The commands in a cell of the table, those that set keys."""
    found = [shlex.split(code) for code in re.findall(r"`([^`]+)`", cell)]
    return [words for words in found if all(re.match(r"\w+=", word) for word in words)]


def test_every_row_is_understood() -> None:
    same = [keys(there) for there, here, _ in ROWS if here == "the same"]
    assert sum(map(len, same)) >= 7
    for words in [each for cell in same for each in cell] + [each for _, here, _ in ROWS for each in keys(here)]:
        config = composed("extract", *words)
        assert all(word.partition("=")[0] in config for word in words)


def test_flags_of_its_text_are_answered_with_the_keys() -> None:
    (row,) = [row for row in ROWS if row[0].startswith("`--")]
    meant = [words[0] for words in keys(row[1])]
    for flag, key in zip(re.findall(r"`(--[^`]+)`", row[0]), meant, strict=True):
        with pytest.raises(UserError, match=f"write {key.partition('=')[0]}=VALUE, without dashes"):
            prepare(flag.split())
    with pytest.raises(UserError, match="config: no such key"):
        prepare(["config=my.yml"])


@pytest.mark.timeout(300)
def test_its_command_runs(tmp_path: Path) -> None:
    (tmp_path / "sample").symlink_to(ROOT / "sample")
    (tmp_path / "main.py").symlink_to(ROOT / "main.py")
    program = f"{shlex.quote(sys.executable)} main.py"
    command = COMMAND.replace("python main.py", program)
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("costs ${5} or {6}") == 4
    saved = {path.name: np.load(path) for path in (tmp_path / "features" / "clip" / "tiny").glob("*.npy")}
    for name in ("v_GGSY1Qvo990", "v_ZNVhz7ctTq0"):
        assert saved[f"{name}_clip.npy"].shape == (2, 128)
        assert saved[f"{name}_timestamps_ms.npy"].shape == (2,)
        assert saved[f"{name}_fps.npy"].shape == ()
