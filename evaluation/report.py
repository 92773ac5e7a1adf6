"""Results on disk: a json file, `results.md` with one table, a PNG for every plot. Every file is whole or absent."""

import io
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from evaluation.result import Plot, Result
from store.files import atomic_write, encode
from store.provenance import software

logger = logging.getLogger(__name__)


def write_report(
    folder: Path,
    json_name: str,
    content: Mapping[str, Any],
    *,
    title: str,
    sections: Mapping[str, Sequence[str]],
    results: Mapping[str, Result],
    left_out: Mapping[str, str] | None = None,
) -> None:
    """Print the table of `results` and write all files, the json with `content` last: where it is, the rest is too.

    `sections`: lines of `results.md` by their heading. `left_out` says why other metrics are not there.
    """
    plots = {f"{name}_{key}": plot for name, each in results.items() for key, plot in each.plots.items()}
    files = {f"{name}.png": png(plot) for name, plot in plots.items()}
    reasons = [f"\n{name}: left out: {reason}" for name, reason in (left_out or {}).items()]
    shown = "\n".join([table(results), *reasons])
    parts = [f"# {title}", f"```\n{content['command']}\n```", shown]
    parts += [f"## {heading}\n\n" + "\n".join(lines) for heading, lines in sections.items()]
    if plots:
        parts.append("## Plots\n\n" + "\n".join(f"![{name}]({name}.png)" for name in plots))
    files |= {"results.md": ("\n\n".join(parts) + "\n").encode(), json_name: encode(content, indent=2)}
    for name, data in files.items():
        with atomic_write(folder / name) as file:
            file.write(data)
    print(shown)
    logger.info("written: %s", ", ".join(str(folder / name) for name in files))


def table(results: Mapping[str, Result]) -> str:
    """The metrics of all evaluations, one a line, as a Markdown table that also reads well as plain text."""
    rows = [("evaluation", "metric", "value")]
    for name, result in results.items():
        rows += [(name, key, rounded(value, key)) for key, value in result.metrics.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ("-" * widths[0], "-" * widths[1], "-" * (widths[2] - 1) + ":"))
    return "\n".join(
        f"| {name:<{widths[0]}} | {key:<{widths[1]}} | {value:>{widths[2]}} |" for name, key, value in rows
    )


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


def origin() -> dict[str, Any]:
    """What was typed to start this program, quoted for a shell, and the versions of everything."""
    return {"command": shlex.join(["python", *sys.orig_argv[1:]]), "software": software()}
