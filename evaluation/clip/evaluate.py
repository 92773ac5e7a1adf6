"""The job behind `--config-name evaluate`: one model, several evaluations, one table."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.report import Report, typed_command
from evaluation.result import Evaluation
from evaluation.subject import Subject
from store.provenance import software
from utils.errors import UserError

logger = logging.getLogger(__name__)


def evaluate(
    *, evaluation: Mapping[str, Evaluation], output_path: str | Path = "./output/evaluation", **subject: Any
) -> int:
    """Run all of `evaluation` on one model and write json, table and plots; exit status 0.

    `subject`: `model_name`, `device`, `precision` ..., the arguments of `Subject.load`.
    """
    if not evaluation:
        raise UserError("evaluation=[]: expected zero_shot, linear_probe, retrieval, sts, geometry, or a list of them")
    model = Subject.load(**subject)
    results, seconds = {}, {}
    for name, measure in evaluation.items():
        logger.info("%s ...", name)
        started = time.monotonic()
        results[name] = measure(model)
        seconds[name] = time.monotonic() - started
    report = Report(model.facts, typed_command(), software(), results, seconds)
    written = report.write(Path(output_path) / model.folder)
    print(report.table())
    logger.info("written: %s", ", ".join(map(str, written)))
    return 0
