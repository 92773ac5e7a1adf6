"""What an evaluation is, what it hands back, and how several are run one after another."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from matplotlib.axes import Axes

T = TypeVar("T")
Plot = Callable[[Axes], None]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """`metrics` go into the table; `details` only into the json. Units are in the names (`top1_percent`)."""

    data: dict[str, Any]  # what it was measured on: paths, counts, templates
    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    plots: dict[str, Plot] = field(default_factory=dict)
    left_out: str = ""  # why there are no metrics
    seconds: float = 0.0


def measured(evaluations: Mapping[str, Callable[[T], Result]], of: T) -> dict[str, Result]:
    """The result of each, with the time it took."""
    results = {}
    for name, evaluation in evaluations.items():
        logger.info("%s ...", name)
        started = time.monotonic()
        result = evaluation(of)
        results[name] = replace(result, seconds=round(time.monotonic() - started, 1))
    return results
