"""The job behind `--config-name evaluate`: one model, several evaluations, one table."""

from collections.abc import Callable, Mapping
from pathlib import Path

from evaluation.report import origin, write_report
from evaluation.result import Result, measured
from evaluation.subject import Subject
from models.load import ModelChoice
from utils.errors import UserError

Evaluation = Callable[[Subject], Result]  # the options of the config group: classes, which check their arguments


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
    results = measured(evaluation, subject)
    facts = ("data", "metrics", "details", "seconds")
    evaluations = {name: {fact: getattr(result, fact) for fact in facts} for name, result in results.items()}
    data = {name: ", ".join(f"{key} `{value}`" for key, value in each.data.items()) for name, each in results.items()}
    write_report(
        Path(output_path) / subject.folder,
        "results.json",
        {"model": subject.facts, **origin(), "evaluations": evaluations},
        title=f"Evaluation of {subject.facts['model_name']}",
        sections={
            "Model": [f"- {key}: `{value}`" for key, value in subject.facts.items()],
            "Data": [f"- {name}: {listed}" for name, listed in data.items()],
        },
        results=results,
    )
    return 0
