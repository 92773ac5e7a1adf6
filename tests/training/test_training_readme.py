"""Commands and keys of training/README.md are those of the jobs, also in its tables for who comes from elsewhere."""

import re
import shlex

import pytest

from tests.helpers.configs import composed
from tests.helpers.shared_data import ROOT

README = (ROOT / "training" / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if "main.py" in line
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[words.index("--config-name") + 1])
def test_its_commands_compose(words):
    job, *overrides = words[words.index("--config-name") + 1 :]
    assert composed(job, *overrides).job


@pytest.mark.parametrize(("title", "least"), [("OpenAI-CLIP", 20), ("CLIP-mixer", 10)])
def test_its_tables_name_keys_that_there_are(title, least):
    """All in one run, beside the experiment of the command above them."""
    section = README[README.index(f"## From {title}") :].split("\n## ")[0]
    cells = [line.split("|")[2] for line in section.splitlines() if line.startswith("|")]
    keys = [
        code.strip('"') for cell in cells for code in re.findall(r"`([^`]+)`", cell) if re.match(r'"?[\w.]+=', code)
    ]
    assert len(keys) >= least
    experiment = next(
        word for words in COMMANDS for word in words if word.startswith("experiment=") and word in section
    )
    assert composed("train", *dict.fromkeys([experiment, *keys])).job
