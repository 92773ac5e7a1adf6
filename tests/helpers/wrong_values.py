"""Wrong values for every key of every job, in one process: `python -m tests.helpers.wrong_values` prints what is amiss;
with `all` behind it every value is tried everywhere, which takes minutes.

Inputs are missing, so that every job ends before its work begins. A process of its own: the check of shapes that tests
install would find wrong types before the code does.
"""

import functools
import io
import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

import main as program
from tests.helpers.configs import composed
from utils import command_line
from utils.command_line import CONFIGS, known_keys, prepare
from utils.errors import UserError

JOBS = sorted((path.stem for path in CONFIGS.glob("*.yaml")), key=lambda job: (job != "extract", job))
MODEL = ("model_name=tiny", "device=cpu")
MISSING = {
    "caption": ("device=cpu", "image_paths=missing.jpg"),
    "caption_evaluate": (*MODEL, "predictions=missing.json", "references=missing.json"),
    "caption_grammar": (*MODEL, "labels_path=missing", "embeddings_path=missing"),
    "caption_labels": ("annotations=missing.json",),
    "caption_train": ("device=cpu", "labels_path=missing", "grids_path=missing", "embeddings_path=missing"),
    "convert": ("input_path=missing",),
    "evaluate": (*MODEL, "pairs=karpathy", "captions_path=missing.json"),
    "extract": (*MODEL, "image_paths=missing.jpg"),
    "search": (*MODEL, "image_paths=missing.jpg", "query=x"),
    "train": ("device=cpu", "data_path=missing.csv"),
}
VALUES = ("[a,[b]]", "{a: 1}", "-1", "1e30", "nan", "", "null", "[]", "true", "x" * 5000)
SLOW = ("caption",)  # builds its models before it looks for inputs
FINE = {"activation": ("[]", "null"), "show_pred": ("true",)}  # take longer, and are right or tried elsewhere


def wrong(job: str) -> Iterator[tuple[str, str]]:
    """Every key of a job; five of the values for those that no job before has, one for the others."""
    before = {key for other in JOBS[: JOBS.index(job)] for key in known_keys(other)[0]}
    for number, key in enumerate(sorted(known_keys(job)[0])):
        first = number % len(VALUES)
        count = 1 if key in before else 2 if job in SLOW else 5
        for value in VALUES if "all" in sys.argv else (VALUES * 2)[first : first + count]:
            if value not in FINE.get(key, ()):
                yield key, value


@functools.cache
def config_of(job: str) -> DictConfig:
    return composed(job, *MISSING.get(job, ()))


def run(job: str, key: str, value: str) -> Any:
    """The status, or the line, that `main.py` would end with."""
    argument = prepare(["--config-name", job, f"{key}={value}"])[2]
    if key in known_keys(job)[1]:
        others = (each for each in MISSING.get(job, ()) if not each.startswith(f"{key}="))
        config = composed(job, *others, f"{key}={value}")
    else:
        config = config_of(job).copy()
        with open_dict(config):
            config[key] = OverridesParser.create().parse_override(argument).value()
    assert OmegaConf.is_config(config)
    return program.main.__wrapped__(config)  # pyright: ignore[reportFunctionMemberAccess]


def problem(job: str, key: str, value: str) -> str:
    shown = io.StringIO()
    try:
        with redirect_stderr(shown), redirect_stdout(shown):
            ended = run(job, key, value)
    except UserError as error:
        ended = f"error: {error}"
    except SystemExit as end:
        ended = end.code
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    if "Traceback" in shown.getvalue():
        return shown.getvalue()[-500:]
    line = isinstance(ended, str) and ended.startswith("error: ") and "\n" not in ended
    return "" if line or ended in (None, 0, 1) else f"ends with {ended!r}"


def main() -> None:
    command_line.parts = functools.cache(command_line.parts)  # YAML is read slowly
    found = {(job, key, value): problem(job, key, value) for job in JOBS for key, value in wrong(job)}
    amiss = [[*case, text] for case, text in found.items() if text]
    print(json.dumps({"cases": len(found), "jobs": len({case[0] for case in found}), "amiss": amiss}))


if __name__ == "__main__":
    main()
