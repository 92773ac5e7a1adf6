"""What an evaluation hands back, and what an evaluation is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from matplotlib.axes import Axes

from evaluation.subject import Subject

Plot = Callable[[Axes], None]


@dataclass(frozen=True)
class Result:
    """`metrics` go into the table; `details` only into the json. Units are in the names (`top1_percent`)."""

    data: dict[str, Any]  # what it was measured on: paths, counts, templates
    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    plots: dict[str, Plot] = field(default_factory=dict)


class Evaluation(Protocol):
    """One option of the config group `evaluation`. Wrong arguments raise UserError on construction."""

    def __call__(self, subject: Subject) -> Result: ...
