"""The job behind `--config-name evaluate`: one model, several evaluations, one table."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from evaluation.report import Report, typed_command
from evaluation.result import Evaluation
from evaluation.subject import Subject
from models.load import ModelChoice
from store.provenance import software
from utils.errors import UserError

logger = logging.getLogger(__name__)


def evaluate(
    *,
    evaluation: Mapping[str, Evaluation],
    output_path: str | Path = "./output/evaluation",
    model: ModelChoice,
    batch_size: int = 64,
) -> int:
    """Run all of `evaluation` on one model and write json, table and plots; exit status 0."""
    if not evaluation:
        raise UserError("evaluation=[]: expected zero_shot, linear_probe, retrieval, sts, geometry, or a list of them")
    subject = Subject.load(model, batch_size=batch_size)
    results, seconds = {}, {}
    for name, measure in evaluation.items():
        logger.info("%s ...", name)
        started = time.monotonic()
        results[name] = measure(subject)
        seconds[name] = time.monotonic() - started
    report = Report(subject.facts, typed_command(), software(), results, seconds)
    written = report.write(Path(output_path) / subject.folder)
    print(report.table())
    logger.info("written: %s", ", ".join(map(str, written)))
    return 0
