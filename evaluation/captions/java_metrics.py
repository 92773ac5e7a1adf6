"""METEOR and SPICE, which exist in Java only: through pycocoevalcap, where that and Java are installed.

Captions are cut into words by our tokenizer, not by Stanford's. Asked for and not there is an error before anything
starts; what fails while it runs (Java, memory) is reported as left out, so that the other metrics are not lost.
"""

import os
import shutil
import subprocess
from importlib import import_module
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
        name = self._name
        keys = [f"{number:08}" for number in range(len(captions.image_ids))]  # sorted, they stay in this order
        references = [[" ".join(words) for words in each] for each in captions.reference_words]
        scorer = getattr(import_module(f"pycocoevalcap.{name}.{name}"), name.title())
        given = os.environ.get(_OPTIONS_KEY)
        os.environ[_OPTIONS_KEY] = f"{given} {_JAVA_OPTIONS}" if given else _JAVA_OPTIONS
        try:
            score, each = scorer().compute_score(
                dict(zip(keys, references, strict=True)),
                {key: [" ".join(words)] for key, words in zip(keys, captions.words, strict=True)},
            )
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            return Result(data={}, metrics={}, left_out=f"{type(error).__name__}: {error}")
        finally:
            del os.environ[_OPTIONS_KEY]
            os.environ |= {_OPTIONS_KEY: given} if given is not None else {}
        per_image = [_value(one) for one in each]
        return Result({"by": "pycocoevalcap"}, {name: float(score)}, {"per_image": {name: per_image}})


def missing(name: str) -> str | None:
    """What is needed for `meteor` or `spice` and not there; None where all is."""
    package = find_spec("pycocoevalcap")
    if package is None or shutil.which("java") is None:
        return "needs pycocoevalcap and Java"
    if name == "spice":
        folders = [Path(folder) / "spice" / "lib" for folder in package.submodule_search_locations or []]
        if not any((folder / _SPICE_MODELS).is_file() for folder in folders):
            return "needs CoreNLP 3.6.0, once: python -m pycocoevalcap.spice.get_stanford_models downloads it"
    return None


def why_not(name: str) -> str:
    """Of a metric that was not asked for."""
    return missing(name) or f"not asked for: add {name} to caption_metric"


def _value(score: Any) -> float:
    """SPICE tells an image's score by kinds of facts; all of them together is "All"."""
    return float(score["All"]["f"]) if isinstance(score, dict) else float(score)
