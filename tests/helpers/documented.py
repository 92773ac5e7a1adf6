"""Commands of documents, run as they stand there."""

import logging
import re
import runpy
import shlex
import sys

import pytest

from tests.helpers.shared_data import ROOT

PROGRAM = ["python", "main.py"]


def blocks(text: str, language: str) -> list[str]:
    """Code of one language in a Markdown document."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for kind, block in found if kind == language]


def commands(block: str) -> list[list[str]]:
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run_here(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """`python main.py ...` in this process: the same lines of code without five seconds of imports."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
    try:
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "main.py"), run_name="__main__")
    finally:
        root.handlers[:], root.level = handlers, level
    assert isinstance(end.value.code, int), end.value.code
    return end.value.code
