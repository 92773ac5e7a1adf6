"""What `caption_evaluate` leaves on the disk: metrics.json and results.md."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.captions.caption_set import CaptionSet
from evaluation.captions.ngrams import MAX_ORDER
from evaluation.report import Report
from evaluation.result import Result
from store.atomic import atomic_write
from store.plain_json import encode

_LISTED = 5  # ids in results.md


@dataclass(frozen=True)
class CaptionReport:
    """`results` by metric; `left_out` says why other metrics are not there. `data`: files, numbers of images."""

    captions: CaptionSet
    results: Mapping[str, Result]
    left_out: Mapping[str, str]
    data: Mapping[str, Any]
    seconds: Mapping[str, float]
    command: str
    software: Mapping[str, Any]

    def write(self, folder: Path) -> list[Path]:
        """The json comes last: where it is, the rest is too."""
        table, numbers = folder / "results.md", folder / "metrics.json"
        for path, content in ((table, self.markdown().encode()), (numbers, encode(self.as_dict(), indent=2))):
            with atomic_write(path) as file:
                file.write(content)
        return [table, numbers]

    def as_dict(self) -> dict[str, Any]:
        """Metrics at the top, `bleu` as a list of BLEU-1 to BLEU-4; then how they came about; `per_image` by id."""
        return {
            **self._metrics(),
            "left_out": dict(self.left_out),
            "data": dict(self.data),
            "settings": {name: result.data for name, result in self.results.items()},
            "details": {name: self._without_images(result) for name, result in self.results.items()},
            "seconds": {name: round(seconds, 1) for name, seconds in self.seconds.items()},
            "command": self.command,
            "software": dict(self.software),
            "per_image": self._per_image(),
        }

    def table(self) -> str:
        """The metrics as a Markdown table that also reads well as plain text, and below it what is left out."""
        table = Report({}, "", {}, self.results, {}).table()
        return "\n".join([table, *(f"\n{name}: left out: {reason}" for name, reason in self.left_out.items())])

    def markdown(self) -> str:
        data = "\n".join(f"- {key}: `{_short(value)}`" for key, value in self.data.items())
        parts = ["# Evaluation of captions", f"```\n{self.command}\n```", self.table(), f"## Data\n\n{data}"]
        settings = [f"- {name}: `{result.data}`" for name, result in self.results.items() if result.data]
        return "\n\n".join([*parts, "## Settings\n\n" + "\n".join(settings)]) + "\n"

    def _metrics(self) -> dict[str, Any]:
        metrics: dict[str, Any] = {name: v for result in self.results.values() for name, v in result.metrics.items()}
        orders = [f"bleu_{order}" for order in range(1, MAX_ORDER + 1)]
        if orders[0] in metrics:
            metrics = {"bleu": [metrics.pop(name) for name in orders]} | metrics
        return metrics

    def _without_images(self, result: Result) -> dict[str, Any]:
        return {key: value for key, value in result.details.items() if key != "per_image"}

    def _per_image(self) -> dict[str, dict[str, Any]]:
        columns = {
            name: values
            for result in self.results.values()
            for name, values in result.details.get("per_image", {}).items()
        }
        return {
            image_id: {"caption": self.captions.captions[k], **{name: values[k] for name, values in columns.items()}}
            for k, image_id in enumerate(self.captions.image_ids)
        }


def _short(value: Any) -> Any:
    """Of a long list its length and first elements; metrics.json has all of it."""
    if isinstance(value, list) and len(value) > _LISTED:
        return f"{len(value)}: {', '.join(map(str, value[:_LISTED]))} ..."
    return value
