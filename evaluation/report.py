"""Results on disk: `results.json`, `results.md` with one table, a PNG for every plot. Every file is whole or absent."""

import io
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from evaluation.result import Plot, Result
from store.atomic import atomic_write
from store.plain_json import encode


@dataclass(frozen=True)
class Report:
    """What was measured (`results`, by evaluation), of which model, and by which command."""

    model: dict[str, Any]
    command: str
    software: dict[str, Any]
    results: Mapping[str, Result]
    seconds: Mapping[str, float]

    def write(self, folder: Path) -> list[Path]:
        """The files written, the json last: where it is, the rest is too."""
        pictures = [
            _write(folder / f"{name}_{title}.png", png(plot))
            for name, result in self.results.items()
            for title, plot in result.plots.items()
        ]
        table = _write(folder / "results.md", self.markdown([path.name for path in pictures]).encode())
        return [*pictures, table, _write(folder / "results.json", encode(self.as_dict(), indent=2))]

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "command": self.command,
            "software": self.software,
            "evaluations": {
                name: {
                    "data": result.data,
                    "metrics": result.metrics,
                    "details": result.details,
                    "seconds": round(self.seconds[name], 1),
                }
                for name, result in self.results.items()
            },
        }

    def table(self) -> str:
        """The metrics of all evaluations, one a line, as a Markdown table that also reads well as plain text."""
        rows = [("evaluation", "metric", "value")]
        for name, result in self.results.items():
            rows += [(name, key, rounded(value, key)) for key, value in result.metrics.items()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        rows.insert(1, ("-" * widths[0], "-" * widths[1], "-" * (widths[2] - 1) + ":"))
        return "\n".join(
            f"| {name:<{widths[0]}} | {key:<{widths[1]}} | {value:>{widths[2]}} |" for name, key, value in rows
        )

    def markdown(self, pictures: list[str]) -> str:
        model = "\n".join(f"- {key}: `{value}`" for key, value in self.model.items())
        data = "\n".join(f"- {name}: {_listed(result.data)}" for name, result in self.results.items())
        shown = "\n".join(f"![{Path(name).stem}]({name})" for name in pictures)
        parts = [f"# Evaluation of {self.model['model_name']}", f"```\n{self.command}\n```", self.table()]
        parts += [f"## Model\n\n{model}", f"## Data\n\n{data}", *([f"## Plots\n\n{shown}"] if pictures else [])]
        return "\n\n".join(parts) + "\n"


def rounded(value: float, key: str = "") -> str:
    """Enough digits to compare with, none that mean nothing."""
    if key.endswith(("_percent", "_rank", "rsum")):
        return f"{value:.2f}"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}" if abs(value) >= 1e-3 or not value else f"{value:.1e}"


def png(plot: Plot) -> bytes:
    """Drawn without pyplot, whose global state keeps figures alive and wants a display."""
    figure = Figure(figsize=(6.4, 4.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    plot(figure.add_subplot())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": ""})
    return buffer.getvalue()


def typed_command() -> str:
    """What was typed to start this program, quoted for a shell."""
    return shlex.join(["python", *sys.orig_argv[1:]])


def _write(path: Path, content: bytes) -> Path:
    with atomic_write(path) as file:
        file.write(content)
    return path


def _listed(data: dict[str, Any]) -> str:
    return ", ".join(f"{key} `{value}`" for key, value in data.items())
